//! Who means no good.

use super::*;

/// Writes a byte now and then; gives how many the hub took before it hung up.
async fn drip(mut socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, bytes: &[u8]) -> usize {
    let mut sent = 0;
    let mut answer = [0; 64];
    for byte in bytes {
        tokio::select! {
            read = socket.read(&mut answer) => {
                let _ = read;
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        if socket.write_all(&[*byte]).await.is_err() || socket.flush().await.is_err() {
            break;
        }
        sent += 1;
    }
    sent
}

#[tokio::test]
async fn a_byte_now_and_then_buys_no_time() {
    let short = Span::new(Duration::from_millis(300));
    let stand = Stand::open(MqttLimits { connect_timeout: short, packet_timeout: short, ..limits() }).await;
    // A handshake that never ends: the record says it has 16 KB.
    let hello = [&[0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3][..], &[0; 1_000]].concat();
    let plain = TcpStream::connect(stand.addr).await.expect("connected");
    assert!(drip(plain, &hello).await < 200);
    // A CONNECT that never ends.
    let connect = stand.connect("d-1", 60);
    assert!(drip(stand.raw().await, &connect).await < connect.len());
    assert_eq!(stand.count("closed", "connect-timeout"), 2);
    // A publish that never ends.
    let mut socket = stand.raw().await;
    socket.write_all(&connect).await.expect("written");
    socket.read_exact(&mut [0; 4]).await.expect("a CONNACK");
    assert!(drip(socket, &publish("d-1", 1)).await < publish("d-1", 1).len());
    assert_eq!(stand.count("closed", "slow"), 1);
    stand.close().await;
}

#[tokio::test]
async fn a_flood_without_acknowledgements_is_stored_whole_and_makes_only_its_sender_wait() {
    let stand = Stand::open(limits()).await;
    let (client, mut other) = stand.good("d-2");
    connected(&mut other).await.expect("admitted");
    let mut flood = stand.raw().await;
    flood.write_all(&stand.connect("d-1", 60)).await.expect("written");
    let one = packet(0x30, [&text(&events("d-1"))[..], &[b'x'; 100]].concat());
    let sender = tokio::spawn(async move {
        flood.write_all(&one.repeat(5_000)).await.expect("written");
        flood.flush().await.expect("written");
        flood
    });
    client.publish(events("d-2"), QoS::AtLeastOnce, false, "x").await.expect("queued");
    acknowledged(&mut other).await.expect("acknowledged meanwhile");
    let _flood = timeout(PATIENCE, sender).await.expect("in time").expect("no panic");
    let all = async {
        while stand.stored("d-1").await.len() < 5_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("all of them");
    stand.close().await;
}

#[tokio::test]
async fn properties_count_as_what_is_on_its_way_and_are_a_thousand_at_most() {
    let stand = Stand::open(MqttLimits { unacknowledged_max: 1_000, ..limits() }).await;
    // Nothing is acknowledged, so all that is let in stays.
    let lasts = Some(Span::new(Duration::from_secs(60)));
    stand.door.desk.faults.add(Rule { lasts, ..Rule::new(Fault::Delay) });
    let bag = |pairs: usize| format!("{}{}", events("d-1"), vec!["a=b"; pairs].join("&"));
    let qos_0 = |topic: String| packet(0x30, text(&topic));
    let mut flood = stand.raw().await;
    flood.write_all(&stand.connect("d-1", 60)).await.expect("written");
    let sender = tokio::spawn({
        let one = qos_0(bag(1_000));
        async move {
            let _ = flood.write_all(&one.repeat(200)).await;
            flood
        }
    });
    // 1,000 pairs are some 66 KB: two megabytes are thirty-two of them, and no body at all.
    let some = async {
        while stand.stored("d-1").await.len() < 32 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, some).await.expect("stored");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stored = stand.stored("d-1").await.len();
    assert!(stored < 40, "{stored} are on their way");
    sender.abort();

    let mut socket = stand.raw().await;
    socket
        .write_all(&[stand.connect("d-2", 60), qos_0(bag(1_001).replace("d-1", "d-2"))].concat())
        .await
        .expect("written");
    let _ = timeout(PATIENCE, socket.read_to_end(&mut vec![])).await.expect("closed");
    assert_eq!(stand.count("closed", "properties"), 1);
    stand.close().await;
}

#[tokio::test]
async fn those_above_the_limit_of_connections_are_counted() {
    let stand = Stand::open(MqttLimits { connections_max: 20, ..limits() }).await;
    let mut sockets = vec![];
    for _ in 0..120 {
        sockets.push(TcpStream::connect(stand.addr).await.expect("connected"));
    }
    let counted = async {
        while stand.count("closed", "connections-max") < 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("all counted");
    assert_eq!(stand.count("closed", "connections-max"), 100);
    drop(sockets);
    let (_client, mut device) = stand.good("d-1");
    let comes_in = async {
        while connected(&mut device).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, comes_in).await.expect("room again");
    stand.close().await;
}
