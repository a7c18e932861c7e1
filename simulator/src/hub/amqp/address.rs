//! What a link is attached to. SDKs write the same node as a bare path or as a whole URL with any host and port.

/// A node of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// Takes tokens.
    Cbs,
    /// Answers questions about the hub and its partitions.
    Management,
    /// Delivers events.
    Partition { entity: String, consumer_group: String, partition: String },
    /// Takes commands for devices.
    DeviceBound,
    /// Tells what became of commands.
    Feedback,
    /// Would tell of files that devices uploaded.
    FileNotifications,
    /// Nothing the hub has.
    Unknown,
}

/// Where services put commands for devices.
pub(super) const DEVICE_BOUND: &str = "messages/devicebound";
/// Where they hear what became of them.
pub(super) const FEEDBACK: &str = "messages/serviceBound/feedback";
/// Where they would hear of uploaded files.
pub(super) const FILE_NOTIFICATIONS: &str = "messages/serviceBound/filenotifications";

const GROUPS: &str = "/consumergroups/";
const PARTITIONS: &str = "/partitions/";

/// The path of an address, without scheme, host, port and the slashes at its ends.
pub(super) fn path(address: &str) -> &str {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    path.trim_matches('/')
}

/// The host of an address without its port; empty if it has none.
pub(super) fn host(address: &str) -> &str {
    let authority = address.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(rest));
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The path below one of these hosts, for an address that says so with or without a scheme: `host`, `https://host/x`.
pub(super) fn below<'a>(address: &'a str, hosts: &[String]) -> Option<&'a str> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    hosts.iter().any(|known| known.eq_ignore_ascii_case(host)).then(|| path.trim_matches('/'))
}

/// Which node an address names.
pub(super) fn node(address: &str) -> Node {
    let path = path(address);
    let lower = path.to_ascii_lowercase();
    if lower == "$cbs" {
        return Node::Cbs;
    }
    if lower == "$management" || lower.ends_with("/$management") {
        return Node::Management;
    }
    for (known, node) in
        [(DEVICE_BOUND, Node::DeviceBound), (FEEDBACK, Node::Feedback), (FILE_NOTIFICATIONS, Node::FileNotifications)]
    {
        if known.eq_ignore_ascii_case(path) {
            return node;
        }
    }
    // Lower-casing ASCII moves no byte, so places found in one are places in the other.
    let Some(groups) = lower.find(GROUPS) else { return Node::Unknown };
    let Some(partitions) = lower.find(PARTITIONS).filter(|at| groups + GROUPS.len() < *at) else {
        return Node::Unknown;
    };
    Node::Partition {
        entity: path[..groups].to_owned(),
        consumer_group: path[groups + GROUPS.len()..partitions].to_owned(),
        partition: path[partitions + PARTITIONS.len()..].to_owned(),
    }
}

/// Whether a token for `granted` opens `wanted`: the same path, or one above it. Both without host.
pub(super) fn covers(granted: &str, wanted: &str) -> bool {
    let mut wanted = wanted.split('/').filter(|part| !part.is_empty());
    granted
        .split('/')
        .filter(|part| !part.is_empty())
        .all(|part| wanted.next().is_some_and(|wanted| wanted.eq_ignore_ascii_case(part)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn no_text_makes_it_panic_and_a_path_covers_itself(
            text in "\\PC{0,20}",
            parts in proptest::collection::vec("(sb://|/|:[0-9]{1,5}|ConsumerGroups|Partitions|[$]cbs|[a-zé]{1,4})", 0..8),
        ) {
            for address in [text, parts.concat()] {
                let _ = (node(&address), host(&address));
                prop_assert!(covers(path(&address), path(&address)), "{address}");
                prop_assert!(covers("", path(&address)), "{address}");
                let hosts = ["a".to_owned(), String::new()];
                prop_assert!(below(&address, &hosts).is_none_or(|path| address.contains(path)), "{address}");
            }
        }
    }

    #[test]
    fn a_node_is_known_in_every_spelling() {
        let partition = |group: &str, partition: &str| Node::Partition {
            entity: "myhub".to_owned(),
            consumer_group: group.to_owned(),
            partition: partition.to_owned(),
        };
        for (address, is) in [
            ("$cbs", Node::Cbs),
            ("$management", Node::Management),
            ("myhub/$management", Node::Management),
            ("amqps://localhost:5671/myhub/$management", Node::Management),
            ("myhub/ConsumerGroups/$Default/Partitions/0", partition("$Default", "0")),
            ("/myhub/consumergroups/a b/partitions/x", partition("a b", "x")),
            ("amqps://localhost/myhub/ConsumerGroups/$Default/Partitions/1", partition("$Default", "1")),
            ("sb://127.0.0.1:15672/myhub/ConsumerGroups/g/Partitions/31/", partition("g", "31")),
            ("/messages/devicebound", Node::DeviceBound),
            ("amqps://127.0.0.1/messages/deviceBound", Node::DeviceBound),
            ("/messages/serviceBound/feedback", Node::Feedback),
            ("messages/servicebound/Feedback/", Node::Feedback),
            ("/messages/serviceBound/filenotifications", Node::FileNotifications),
            ("/messages/serviceBound", Node::Unknown),
            ("/devices/d/messages/devicebound", Node::Unknown),
            ("", Node::Unknown),
            ("myhub", Node::Unknown),
            ("myhub/Partitions/0", Node::Unknown),
            ("myhub/ConsumerGroups/Partitions/0", Node::Unknown),
            ("myhub/Partitions/0/ConsumerGroups/x", Node::Unknown),
            ("amqps://localhost", Node::Unknown),
            (
                "é/ConsumerGroups/ü/Partitions/0é",
                Node::Partition {
                    entity: "é".to_owned(), consumer_group: "ü".to_owned(), partition: "0é".to_owned()
                },
            ),
        ] {
            assert_eq!(node(address), is, "{address}");
        }
    }

    #[test]
    fn a_token_opens_what_lies_below_it() {
        for (granted, wanted, opens) in [
            ("", "myhub/ConsumerGroups/$Default/Partitions/0", true),
            ("myhub", "myhub", true),
            ("MyHub", "myhub/$management", true),
            ("myhub/ConsumerGroups/$Default/Partitions/1", "myhub/ConsumerGroups/$Default/Partitions/1", true),
            ("myhub/ConsumerGroups/$Default/Partitions/1", "myhub/ConsumerGroups/$Default/Partitions/10", false),
            ("myhub/ConsumerGroups/$Default", "myhub", false),
            ("my", "myhub", false),
            ("other", "myhub", false),
        ] {
            assert_eq!(covers(granted, wanted), opens, "{granted:?} {wanted:?}");
        }
    }

    #[test]
    fn an_address_below_a_host_is_known_with_and_without_scheme_and_port() {
        let hosts = ["h.example".to_owned(), "127.0.0.2".to_owned()];
        for (address, is) in [
            ("h.example", Some("")),
            ("https://H.example", Some("")),
            ("https://h.example/", Some("")),
            ("h.example/devices/d", Some("devices/d")),
            ("amqps://127.0.0.2:5671/messages/devicebound", Some("messages/devicebound")),
            ("myhub", None),
            ("sb://elsewhere/h.example", None),
            ("", None),
        ] {
            assert_eq!(below(address, &hosts), is, "{address}");
        }
    }

    #[test]
    fn hosts_are_compared_without_their_port() {
        for (address, is) in [
            ("sb://127.0.0.1:15672/myhub", "127.0.0.1"),
            ("amqps://h.servicebus.windows.net/myhub", "h.servicebus.windows.net"),
            ("amqps://h", "h"),
            ("sb://[::1]:5/x", "[::1]"),
            ("myhub/x", ""),
        ] {
            assert_eq!(host(address), is, "{address}");
        }
    }
}
