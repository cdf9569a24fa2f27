//! The crate `redis`, synchronous, against redis-server.

use std::time::Duration;

use greenlet_real::{Flight, GREENLETS, WHILE, overlap, pattern, run_with_server, together};
use redis::{Client, Commands, Connection};

fn main() {
    run_with_server(
        "GREENLET_REDIS",
        &[
            ("values_are_set_and_got", values_are_set_and_got),
            ("what_is_in_a_pipeline_is_answered_in_order", pipelines),
            ("all_wait_for_an_item_at_once", all_wait_at_once),
            ("a_read_timeout_ends_a_wait", a_read_timeout_ends_a_wait),
            (
                "the_killed_get_an_error_and_disconnect",
                the_killed_get_an_error,
            ),
            (
                "greenlets_timeout_ends_a_wait",
                greenlets_timeout_ends_a_wait,
            ),
            ("a_subscriber_hears_a_publisher", a_subscriber_hears),
        ],
    );
}

fn connect(address: &str) -> Connection {
    let client = Client::open(format!("redis://{address}/")).unwrap();
    client.get_connection().unwrap()
}

/// Until all the others are in flight.
fn wait_for_all(flight: &Flight) {
    while flight.now() < GREENLETS {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn values_are_set_and_got(address: &str) {
    let () = connect(address).set("count", 0).unwrap();
    overlap(|number, flight| {
        let mut connection = flight.during(|| connect(address));
        let key = format!("value:{number}");
        for round in 0..10 {
            // The larger ones do not fit into a socket's buffer.
            let length = if round == 5 { 300_000 } else { round * 100 };
            let value = pattern(number + round, length);
            let () = flight.during(|| connection.set(&key, &value).unwrap());
            let got: Vec<u8> = flight.during(|| connection.get(&key).unwrap());
            assert!(got == value, "round {round} of {number}");
        }
        let count: i64 = flight.during(|| connection.incr("count", 1).unwrap());
        assert!(count > 0);
    });
    let count: usize = connect(address).get("count").unwrap();
    assert_eq!(count, GREENLETS);
}

fn pipelines(address: &str) {
    overlap(|number, flight| {
        let mut connection = connect(address);
        let mut pipeline = redis::pipe();
        pipeline.del(format!("list:{number}")).ignore();
        for item in 0..50 {
            pipeline.rpush(format!("list:{number}"), item).ignore();
        }
        pipeline.lrange(format!("list:{number}"), 0, -1);
        flight.meet();
        if number == 0 {
            // Nobody gets an answer for so many milliseconds.
            let pause = redis::cmd("CLIENT")
                .arg("PAUSE")
                .arg(200)
                .exec(&mut connection);
            pause.unwrap();
        }
        flight.meet();
        let (list,): (Vec<usize>,) = flight.during(|| pipeline.query(&mut connection).unwrap());
        assert_eq!(list, (0..50).collect::<Vec<_>>());
    });
}

/// Nobody gets anything before all of them wait: the items come from a greenlet
/// that waits for that.
fn all_wait_at_once(address: &str) {
    let pushed = together(GREENLETS + 1, |number, flight| {
        let mut connection = connect(address);
        if number == GREENLETS {
            wait_for_all(flight);
            for number in 0..GREENLETS {
                let () = connection.rpush(format!("queue:{number}"), number).unwrap();
            }
        } else {
            let wait = || connection.blpop(format!("queue:{number}"), 0.0).unwrap();
            let (_, item): (String, usize) = flight.during(wait);
            assert_eq!(item, number);
        }
    });
    assert_eq!(pushed, GREENLETS);
}

fn a_read_timeout_ends_a_wait(address: &str) {
    overlap(|number, flight| {
        let mut connection = connect(address);
        connection.set_read_timeout(Some(WHILE)).unwrap();
        flight.meet();
        let wait = || connection.blpop(format!("nothing:{number}"), 0.0);
        let waited: redis::RedisResult<(String, usize)> = flight.during(wait);
        assert!(waited.unwrap_err().is_timeout());
    });
}

/// How many clients the server has, this one included.
fn clients(connection: &mut Connection) -> usize {
    let info: redis::InfoDict = redis::cmd("INFO").arg("clients").query(connection).unwrap();
    info.get("connected_clients").unwrap()
}

fn the_killed_get_an_error(address: &str) {
    let mut connection = connect(address);
    // Those of the tests before this one may still be leaving.
    while clients(&mut connection) > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = 1;
    let all: Vec<_> = (0..GREENLETS)
        .map(|number| {
            let mut connection = connect(address);
            greenlet::spawn(move || -> redis::RedisResult<usize> {
                let (_, item) =
                    connection.blpop::<_, (String, usize)>(format!("no:{number}"), 0.0)?;
                Ok(item)
            })
        })
        .collect();
    greenlet::yield_now();
    assert_eq!(clients(&mut connection), before + GREENLETS);
    all.iter().for_each(|greenlet| greenlet.kill());
    for result in greenlet::joinall(all) {
        // It ended by itself, with what its call of `recv` had answered.
        let error = result.unwrap().unwrap_err();
        assert!(error.is_io_error(), "{error}");
    }
    while clients(&mut connection) > before {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn greenlets_timeout_ends_a_wait(address: &str) {
    overlap(|number, flight| {
        let mut connection = connect(address);
        flight.meet();
        let wait = || connection.blpop::<_, (String, usize)>(format!("no:{number}"), 0.0);
        let ended = flight.during(|| greenlet::timeout(WHILE, wait));
        assert!(ended.unwrap().unwrap_err().is_timeout());
    });
}

fn a_subscriber_hears(address: &str) {
    let heard = together(GREENLETS + 1, |number, flight| {
        let mut connection = connect(address);
        if number == GREENLETS {
            wait_for_all(flight);
            let heard: usize = connection.publish("news", "all is well").unwrap();
            assert_eq!(heard, GREENLETS);
        } else {
            let mut subscriber = connection.as_pubsub();
            subscriber.subscribe("news").unwrap();
            let message = flight.during(|| subscriber.get_message().unwrap());
            assert_eq!(message.get_payload::<String>().unwrap(), "all is well");
        }
    });
    assert_eq!(heard, GREENLETS);
}
