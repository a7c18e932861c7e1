//! Every bound, and who runs into it: what is refused is counted with its reason, and the others notice nothing.

use super::*;

/// The next answer is that of a ping: everything before it is digested, and the connection lives.
async fn pings(stream: &mut TcpStream) {
    stream.write_all(&[0xc0, 0]).await.expect("written");
    expect_bytes(stream, &[0xd0, 0]).await;
}

async fn greeted(stand: &Stand) -> TcpStream {
    greeted_as(stand, b'd').await
}

async fn greeted_as(stand: &Stand, client: u8) -> TcpStream {
    let mut stream = stand.raw().await;
    let mut hello = connect(0);
    *hello.last_mut().expect("a client id") = client;
    stream.write_all(&hello).await.expect("written");
    expect_bytes(&mut stream, &CONNACK).await;
    stream
}

#[tokio::test]
async fn connections_above_the_bound_are_closed_at_once() {
    for (reason, all, per_address) in [("connections-max", 1, 10), ("connections-per-address", 10, 1)] {
        let stand = stand(2, |config, _| {
            (config.connections_max, config.connections_per_address) = (all, per_address);
        })
        .await;
        let mut first = greeted(&stand).await;
        let mut second = stand.raw().await;
        assert_eq!(rest(&mut second).await, b"");
        stand.until_refused(reason, 1).await;
        pings(&mut first).await;
        drop(first);
        let again =
            async { while answer(&mut stand.raw().await, &[connect(60), vec![0xe0, 0]].concat()).await != CONNACK {} };
        timeout(SOON, again).await.expect("there is room again");
    }
}

#[tokio::test]
async fn a_device_that_is_too_fast_is_read_slower_and_loses_nothing() {
    for (rate_messages, rate_bytes) in [(Some(20), None), (None, Some(Size::new(20 * 6)))] {
        let mut stand = stand(256, |config, _| {
            (config.rate_messages, config.rate_bytes) = (rate_messages, rate_bytes);
            config.unacked_max = 100;
        })
        .await;
        let begun = Instant::now();
        let mut stream = greeted(&stand).await;
        // At QoS 0, where what finds no room is dropped: a second's share that was saved up, and one more.
        let flood: Vec<u8> = (0..40).flat_map(|_| [0x30, 4, 0, 1, b't', b'x']).collect();
        stream.write_all(&[flood, vec![0xc0, 0]].concat()).await.expect("written");
        for _ in 0..40 {
            stand.message().await;
        }
        expect_bytes(&mut stream, &[0xd0, 0]).await;
        assert!(Duration::from_millis(900) <= begun.elapsed(), "read in {:?}", begun.elapsed());
        assert!(0 < stand.metrics.of("listener").halted("rate"));
        assert_eq!(stand.metrics.of("listener").dropped.get(), 0);
    }
}

#[tokio::test]
async fn a_device_that_is_made_to_wait_is_not_taken_for_a_silent_or_slow_one() {
    let mut stand = stand(8, |config, _| config.packet_timeout = Span::new(Duration::from_millis(300))).await;
    let mut stream = stand.raw().await;
    // A keep-alive of a second, and one publish more than may be unacknowledged, the last one cut.
    let publishes: Vec<u8> = (1..=6).flat_map(|id| publish(id, b"x")).collect();
    stream.write_all(&[connect(1), publishes[..publishes.len() - 1].to_vec()].concat()).await.expect("written");
    expect_bytes(&mut stream, &CONNACK).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(stand.message().await);
    }
    tokio::time::sleep(Duration::from_millis(1800)).await;
    waiting.into_iter().for_each(|message| message.ack.done());
    stream.write_all(b"x").await.expect("written");
    for _ in 0..2 {
        stand.message().await.ack.done();
    }
    for id in 1..=6 {
        expect_bytes(&mut stream, &[0x40, 2, 0, id]).await;
    }
    assert!(0 < stand.metrics.of("listener").halted("unacked-max"));
}

#[tokio::test]
async fn what_all_devices_may_have_waiting_is_bounded_and_goes_on_when_stored() {
    let mut stand = stand(256, |config, _| {
        (config.max_packet, config.bytes_max) = (Size::new(1024), Size::new(1024));
        config.unacked_max = 100;
    })
    .await;
    let (mut one, mut two) = (greeted_as(&stand, b'1').await, greeted_as(&stand, b'2').await);
    for stream in [&mut one, &mut two] {
        let publishes: Vec<u8> = (1..=20).flat_map(|id| publish(id, &[b'x'; 100])).collect();
        stream.write_all(&publishes).await.expect("written");
    }
    let mut held = Vec::new();
    let few = async {
        loop {
            held.push(stand.messages.recv().await.expect("the listener lives"));
        }
    };
    let _ = timeout(Duration::from_millis(300), few).await;
    // Eleven of 101 bytes reach the bound; each thread that reads may pass it by one.
    assert!((10..=12).contains(&held.len()), "{} were let in", held.len());
    assert!(0 < stand.metrics.of("listener").halted("bytes-max"));
    for _ in 0..40 {
        if held.is_empty() {
            held.push(stand.message().await);
        }
        held.remove(0).ack.done();
    }
    for stream in [&mut one, &mut two] {
        for id in 1..=20 {
            expect_bytes(stream, &[0x40, 2, 0, id]).await;
        }
    }
}

#[tokio::test]
async fn large_packets_on_their_way_in_wait_for_each_other_and_small_ones_do_not() {
    let mut stand = stand(8, |config, _| {
        (config.max_packet, config.bytes_max) = (Size::new(64 * 1024), Size::new(64 * 1024));
    })
    .await;
    // Sixty kilobytes are announced, and two come; then there is no place for another such packet.
    let head = [0x32, 0xe0, 0xd4, 3, 0, 1, b't', 0, 1];
    let mut hoarder = greeted_as(&stand, b'1').await;
    hoarder.write_all(&[&head[..], &[b'x'; 2000]].concat()).await.expect("written");
    let mut second = greeted_as(&stand, b'2').await;
    let whole = [&head[..], &vec![b'y'; 60_000 - 5]].concat();
    second.write_all(&whole).await.expect("written");
    let halted = async {
        while stand.metrics.of("listener").halted("large-packets") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, halted).await.expect("it waits");
    let mut small = greeted_as(&stand, b'3').await;
    small.write_all(&publish(1, b"small")).await.expect("written");
    let message = stand.message().await;
    assert_eq!(&message.payload[..], b"small");
    message.ack.done();
    expect_bytes(&mut small, &[0x40, 2, 0, 1]).await;
    // Whoever holds a place and goes on too slowly loses it.
    drop(hoarder);
    let message = stand.message().await;
    assert_eq!(message.payload.first(), Some(&b'y'));
    message.ack.done();
    expect_bytes(&mut second, &[0x40, 2, 0, 1]).await;
}

#[tokio::test]
async fn a_hundred_wrong_passwords_at_once_hold_up_nobody_who_is_in() {
    let stand = stand(8, |config, dir| {
        let path = dir.join("passwords");
        std::fs::write(&path, include_str!("../testdata/passwords")).expect("write");
        config.password_file = Some(path);
    })
    .await;
    let mut inside = greeted(&stand).await;
    let login =
        [&[0x10, 29, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xc2, 0, 60, 0, 1, b'd', 0, 7][..], b"press-3\0\x05wrong"];
    let login = Arc::new(login.concat());
    let guesses: Vec<_> = (0..100)
        .map(|_| {
            let (address, login) = (stand.address, Arc::clone(&login));
            tokio::spawn(async move { answer(&mut TcpStream::connect(address).await.expect("connects"), &login).await })
        })
        .collect();
    pings(&mut inside).await;
    for guess in guesses {
        assert_eq!(guess.await.expect("no panic"), [0x20, 2, 0, 4]);
    }
    stand.until_refused("denied", 100).await;
    pings(&mut inside).await;
}

/// A door through which one shakes hands at a time, and what serves those who come to it with TLS.
async fn narrow(connect_timeout: Duration) -> (Visit, TcpListener, Metrics, tempfile::TempDir) {
    shared::tls::install_provider();
    let dir = tempfile::tempdir().expect("temp dir");
    let mut config = config();
    certificates::certify(&mut config, dir.path());
    (config.tls_client_ca, config.tls_client_crl) = (None, None);
    config.connect_timeout = Span::new(connect_timeout);
    let (metrics, stop) = (Metrics::default(), CancellationToken::new());
    let mut door = Door::new(&config, None, Rights::default(), Clock::Real, metrics.of("listener"), stop);
    door.turns = turns::Turns::new(1);
    let tls = tls::acceptor(&config).expect("certified");
    let visit = Visit { tls, wrapped: false, door: Arc::new(door), tx: mpsc::channel(1).0 };
    (visit, TcpListener::bind(config.listen).await.expect("a port"), metrics, dir)
}

/// Serves the next one who connects.
async fn attend_one(visit: &Visit, socket: &TcpListener) -> JoinHandle<()> {
    let (stream, peer) = socket.accept().await.expect("accepted");
    let caller = visit.door.callers.one_more(peer.ip()).expect("room");
    tokio::spawn(visit.clone().attend(stream, peer, caller))
}

#[tokio::test]
async fn those_who_begin_tls_and_go_silent_hold_up_no_other_handshake() {
    let (visit, socket, _metrics, _dir) = narrow(Duration::from_secs(3_600)).await;
    let address = socket.local_addr().expect("an address");
    let hello = certificates::client_hello();
    let mut silent = Vec::new();
    for said in [&hello[..0], &hello[..40], &hello[..]].into_iter().cycle().take(30) {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(said).await.expect("written");
        attend_one(&visit, &socket).await;
        if said.len() == hello.len() {
            let mut answer = [0];
            let answered = timeout(SOON, stream.read_exact(&mut answer)).await;
            answered.expect("its turn comes").expect("the listener's part of the handshake");
        }
        silent.push(stream);
    }
    let dialled = tokio::spawn(certificates::dial(address, None));
    attend_one(&visit, &socket).await;
    let mut device = timeout(SOON, dialled).await.expect("its turn comes").expect("no panic");
    device.write_all(&connect(60)).await.expect("written");
    let mut answer = [0; CONNACK.len()];
    timeout(SOON, device.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, CONNACK);
}

#[tokio::test]
async fn a_handshake_whose_turn_does_not_come_ends_in_time_and_is_counted() {
    let (visit, socket, metrics, _dir) = narrow(Duration::from_millis(200)).await;
    let _all = visit.door.turns.all().await;
    let mut stream = TcpStream::connect(socket.local_addr().expect("an address")).await.expect("connects");
    stream.write_all(&certificates::client_hello()).await.expect("written");
    let served = attend_one(&visit, &socket).await;
    timeout(SOON, served).await.expect("it ends").expect("no panic");
    assert_eq!(metrics.of("listener").refused("connect-timeout"), 1);
    assert_eq!(rest(&mut stream).await, b"", "nothing was done for it");
}

#[tokio::test]
async fn who_does_not_read_the_answers_is_not_heard_for_ever() {
    let stand = stand(2, |_, _| {}).await;
    let mut deaf = greeted(&stand).await;
    // Pings are answered at once; a device that takes no answer fills its window, then ours, and is read no more.
    let pings = vec![[0xc0, 0]; 64 * 1024].concat();
    let flood = async { while deaf.write_all(&pings).await.is_ok() {} };
    let stuck = timeout(Duration::from_secs(2), flood).await;
    assert!(stuck.is_err(), "it was heard further, or closed at once");
    let mut other = greeted_as(&stand, b'2').await;
    self::pings(&mut other).await;
}

#[tokio::test]
async fn a_connection_costs_what_it_is_and_not_what_others_are() {
    let token = CancellationToken::new();
    let metrics = Metrics::default().of("listener");
    let door = Arc::new(Door::new(&config(), None, Rights::default(), Clock::Real, metrics, token));
    let (tx, _messages) = mpsc::channel(1);
    let (stand, visit) = (stand(1, |_, _| {}).await, Visit { tls: None, wrapped: false, door, tx });
    let (first, second) = (stand.raw().await, stand.raw().await);
    let caller = visit.door.callers.one_more(stand.address.ip()).expect("room");
    let all = visit.clone().attend(first, stand.address, caller);
    let plain = visit.converse(second, Peer { addr: stand.address, certified: None }, Instant::now());
    // With TLS and WebSocket in the same future it was eleven kilobytes.
    let (all, plain) = (size_of_val(&all), size_of_val(&plain));
    assert!(all <= 1024 && plain <= 1024, "{all} and {plain} bytes before what the connection itself needs");
}
