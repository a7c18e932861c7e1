use super::*;
use crate::outbox::RowId;

const S: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    puback_timeout: Duration::from_secs(30),
    stable: Duration::from_secs(60),
    renew_patience: Duration::from_secs(20),
};

fn cut(row: i64) -> Arc<Cut> {
    Arc::new(Cut { rows: vec![RowId(row)], ..Cut::default() })
}

/// A link that was told these notices, each a second after the one before.
struct Told {
    link: Link,
    now: Instant,
}

impl Told {
    fn new() -> Self {
        let now = Instant::now();
        let backoff = Backoff::new(S, 64 * S, 1);
        Self { link: Link::new(LIMITS, Window::new(4), backoff, now), now }
    }

    fn tell(&mut self, notice: Notice) -> String {
        self.now += S;
        let todo = self.link.step(notice, self.now);
        let name = |what: &Do| match what {
            Do::Publish(cut) => format!("publish {}", cut.rows[0].0),
            Do::Done(cut) => format!("done {}", cut.rows[0].0),
            Do::Dial => "dial".to_owned(),
            Do::SayGoodbye => "goodbye".to_owned(),
            Do::HangUp(why) => format!("hang up: {why}"),
        };
        todo.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    fn connect(&mut self) -> String {
        self.wait_for_retry();
        assert_eq!(self.tell(Notice::Tick), "dial");
        let renew_at = self.now + 3000 * S;
        self.tell(Notice::Connected { renew_at })
    }

    fn wait_for_retry(&mut self) {
        if let State::Offline { retry_at } = self.link.state() {
            self.now = self.now.max(retry_at);
        }
    }

    fn ceiling(&self) -> u64 {
        self.link.backoff.ceiling().as_secs()
    }
}

#[test]
fn offline_dials_when_the_retry_is_due() {
    let mut told = Told::new();
    assert_eq!(told.tell(Notice::Tick), "dial");
    assert_eq!(told.tell(Notice::Tick), "", "once");
    assert_eq!(told.link.state(), State::Dialing);
}

#[test]
fn dialing_to_catching_up_publishes_nothing_when_nothing_is_in_flight() {
    let mut told = Told::new();
    assert_eq!(told.connect(), "");
    assert_eq!(told.link.state().as_str(), "catching-up");
    assert_eq!(told.tell(Notice::CaughtUp), "");
    assert_eq!(told.link.state().as_str(), "live");
    assert_eq!(told.tell(Notice::Behind), "");
    assert_eq!(told.link.state().as_str(), "catching-up");
}

#[test]
fn live_to_offline_and_back_sends_everything_in_flight_again_in_order() {
    let mut told = Told::new();
    told.connect();
    for row in 1..=3 {
        assert_eq!(told.tell(Notice::Cut(cut(row))), format!("publish {row}"));
    }
    assert_eq!(told.tell(Notice::Published(1)), "");
    assert_eq!(told.tell(Notice::Published(2)), "");
    assert_eq!(told.tell(Notice::Acked(2)), "done 2");
    assert_eq!(told.tell(Notice::Lost), "hang up: lost");
    assert_eq!(told.tell(Notice::Acked(1)), "", "an ack of a dead connection counts for nothing");
    assert_eq!(told.connect(), "publish 1, publish 3");
    assert_eq!(told.tell(Notice::Published(1)), "");
    assert_eq!(told.tell(Notice::Acked(1)), "done 1");
    assert_eq!(told.link.window().len(), 1);
}

#[test]
fn a_missing_puback_is_a_lost_connection() {
    let mut told = Told::new();
    told.connect();
    told.tell(Notice::Cut(cut(1)));
    told.now = told.link.deadline().expect("a publish waits") - 2 * S;
    assert_eq!(told.tell(Notice::Tick), "");
    assert_eq!(told.tell(Notice::Tick), "hang up: no PUBACK in time");
    assert_eq!(told.connect(), "publish 1");
}

#[test]
fn ids_that_disagree_give_the_connection_up() {
    let mut told = Told::new();
    told.connect();
    assert_eq!(told.tell(Notice::Published(9)), "hang up: packet ids disagree");
}

#[test]
fn the_wait_grows_until_a_connection_lasts() {
    let mut told = Told::new();
    told.connect();
    told.tell(Notice::Lost);
    told.connect();
    told.tell(Notice::Lost);
    assert_eq!(told.ceiling(), 4, "connections that break at once count as failures");
    told.connect();
    told.now += LIMITS.stable;
    told.tell(Notice::Lost);
    assert_eq!(told.ceiling(), 2, "this one had lasted");
}

#[test]
fn a_wrong_key_is_tried_again_at_the_longest_waits_and_never_given_up() {
    let mut told = Told::new();
    for _ in 0..3 {
        told.wait_for_retry();
        assert_eq!(told.tell(Notice::Tick), "dial");
        assert_eq!(told.tell(Notice::Denied), "hang up: denied");
        assert_eq!(told.ceiling(), 64);
    }
}

#[test]
fn a_token_that_ends_is_renewed_once_the_window_is_empty() {
    let mut told = Told::new();
    told.connect();
    told.tell(Notice::Cut(cut(1)));
    told.tell(Notice::Published(1));
    let State::CatchingUp(up) = told.link.state() else { panic!("connected") };
    told.link.limits.puback_timeout = 9000 * S;
    told.now = up.renew_at;
    assert_eq!(told.tell(Notice::Tick), "");
    assert!(!told.link.takes_more(), "nothing new is sent");
    assert_eq!(told.tell(Notice::Acked(1)), "done 1, goodbye, dial");
}

#[test]
fn a_window_that_does_not_drain_goes_again_after_the_renewal() {
    let mut told = Told::new();
    told.connect();
    told.tell(Notice::Cut(cut(1)));
    let State::CatchingUp(up) = told.link.state() else { panic!("connected") };
    told.link.limits.puback_timeout = 9000 * S;
    told.now = up.renew_at;
    assert_eq!(told.tell(Notice::Tick), "");
    told.now += LIMITS.renew_patience;
    assert_eq!(told.tell(Notice::Tick), "hang up: the token ends and the window did not drain, dial");
    let renew_at = told.now + 3000 * S;
    assert_eq!(told.tell(Notice::Connected { renew_at }), "publish 1");
}

#[test]
fn a_full_window_takes_no_more() {
    let mut told = Told::new();
    told.connect();
    for row in 1..=4 {
        assert!(told.link.takes_more());
        told.tell(Notice::Cut(cut(row)));
    }
    assert!(!told.link.takes_more());
}
