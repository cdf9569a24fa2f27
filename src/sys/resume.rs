//! Has an interrupted system call be made again, as if no signal had come.
//!
//! The kernel never restarts some calls, whatever `SA_RESTART` says: they answer
//! EINTR after any handler. A handler that changes where the thread goes on can send
//! it back to the instruction that made the call:
//!
//! ```text
//!        mov  $35, %eax
//!    ──▶ syscall                 ◀── the handler's context says: go on here
//!        cmp  $-4095, %rax           the kernel meant here, with EINTR in rax
//! ```

use super::threads::InCall;

/// Makes the thread whose context this is go back to the system call that it was
/// known to be in, if it stands right behind it with EINTR, and if that call is one
/// that has done nothing when it answers so.
pub(super) fn call_again(context: &mut libc::ucontext_t, call: &InCall) {
    if only_waits(call.number) {
        go_back(context, call);
    }
}

#[cfg(target_arch = "x86_64")]
fn go_back(context: &mut libc::ucontext_t, call: &InCall) {
    use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP};
    const LENGTH_OF_SYSCALL: i64 = 2;

    let registers = &mut context.uc_mcontext.gregs;
    let is = |register: libc::c_int, value: u64| registers[register as usize] as u64 == value;
    let arguments = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9];
    let fits = is(REG_RIP, call.program_counter)
        && is(REG_RSP, call.stack_pointer)
        && is(REG_RAX, i64::from(-libc::EINTR) as u64)
        && arguments
            .iter()
            .zip(call.arguments)
            .all(|(register, value)| is(*register, value));
    if fits {
        registers[REG_RAX as usize] = call.number as i64;
        registers[REG_RIP as usize] -= LENGTH_OF_SYSCALL;
    }
}

#[cfg(target_arch = "aarch64")]
fn go_back(context: &mut libc::ucontext_t, call: &InCall) {
    const LENGTH_OF_SVC: u64 = 4;

    let machine = &mut context.uc_mcontext;
    // The first argument's register has the answer now.
    let fits = machine.pc == call.program_counter
        && machine.sp == call.stack_pointer
        && machine.regs[0] == i64::from(-libc::EINTR) as u64
        && machine.regs[8] == call.number
        && machine.regs[1..6] == call.arguments[1..];
    if fits {
        machine.regs[0] = call.arguments[0];
        machine.pc -= LENGTH_OF_SVC;
    }
}

/// Calls that only wait, or that have done nothing if they answer EINTR. `close` and
/// `connect` are not among them.
fn only_waits(number: u64) -> bool {
    const CALLS: &[libc::c_long] = &[
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_pause,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_futex,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_rt_sigsuspend,
        libc::SYS_semop,
        libc::SYS_semtimedop,
        libc::SYS_msgrcv,
        libc::SYS_msgsnd,
        libc::SYS_io_getevents,
    ];
    CALLS.iter().any(|call| *call as u64 == number)
}
