//! The HTTP client `ureq` against nginx.
//!
//! `/slow.txt` comes in two pieces: nginx sends some of it at once and the rest
//! later, so that all of them are in the middle of it at the same time.

use std::io::Read;
use std::time::Duration;

use greenlet_real::{GREENLETS, WHILE, is_the_page, overlap, overlap_threads};
use greenlet_real::{run_with_server, serve, together};
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

fn main() {
    run_with_server(
        "GREENLET_NGINX",
        &[
            ("a_slow_page_is_got", a_slow_page_is_got),
            ("one_agent_serves_all", one_agent_serves_all),
            ("a_timeout_ends_a_wait_for_an_answer", a_timeout_ends_a_wait),
            ("a_time_for_the_whole_request_is_kept", a_time_for_it_all),
            ("threads_keep_such_a_time_together", threads_keep_a_time),
        ],
    );
}

fn agent(set: impl FnOnce(ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope>) -> Agent {
    set(Agent::config_builder().proxy(None)).build().new_agent()
}

fn get(agent: &Agent, url: &str) {
    let mut response = agent.get(url).call().unwrap();
    assert_eq!(response.status(), 200);
    assert!(is_the_page(&response.body_mut().read_to_vec().unwrap()));
}

fn a_slow_page_is_got(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap(|_, flight| {
        let agent = agent(|config| config);
        flight.during(|| get(&agent, &url));
    });
}

/// Its pool of connections is behind a lock, and connections are used again.
fn one_agent_serves_all(address: &str) {
    let agent = agent(|config| config.max_idle_connections_per_host(GREENLETS));
    let (fast, slow) = (
        format!("http://{address}/fast.txt"),
        format!("http://{address}/slow.txt"),
    );
    overlap(|_, flight| {
        for url in [&fast, &slow, &fast] {
            flight.during(|| get(&agent, url));
        }
    });
}

fn a_timeout_ends_a_wait(_: &str) {
    let silent = serve(|mut stream| stream.read_to_end(&mut Vec::new()).map(drop)).unwrap();
    let url = format!("http://{silent}/");
    overlap(|_, flight| {
        let agent = agent(|config| config.timeout_recv_response(Some(WHILE)));
        let answer = flight.during(|| agent.get(&url).call());
        let timeout = ureq::Timeout::RecvResponse;
        assert!(matches!(answer, Err(ureq::Error::Timeout(which)) if which == timeout));
    });
}

/// For that, ureq looks up each name on a thread of its own, an address too, and
/// all light greenlets of the OS thread stand still for that long.
fn a_time_for_it_all(address: &str) {
    let url = format!("http://{address}/slow.txt");
    let most = together(GREENLETS, |_, flight| {
        let agent = agent(|config| config.timeout_global(Some(Duration::from_secs(60))));
        flight.during(|| get(&agent, &url));
    });
    assert!(
        most >= greenlet_real::ENOUGH,
        "only {most} were in flight at once"
    );
}

/// In threads nobody stands still but who waits.
fn threads_keep_a_time(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap_threads(GREENLETS, |_, flight| {
        let agent = agent(|config| config.timeout_global(Some(Duration::from_secs(60))));
        flight.meet();
        flight.during(|| get(&agent, &url));
    });
}
