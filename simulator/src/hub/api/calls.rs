//! [p] What a request asks for: a method and a path. And the right it takes, as the service documents it: the registry
//! and jobs are the registry policies', what speaks with devices is the service policy's.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use crate::hub::devices::Right;
use crate::hub::limits::Operation;
use crate::hub::who::Who;

/// Segments of a path; no call has more.
const SEGMENTS_MAX: usize = 8;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Devices,
    Bulk,
    GetDevice(String),
    PutDevice(String),
    DeleteDevice(String),
    Modules(String),
    GetModule(Who),
    PutModule(Who),
    DeleteModule(Who),
    DeviceStatistics,
    ServiceStatistics,
    GetTwin(Who),
    PatchTwin(Who),
    PutTwin(Who),
    Method(Who),
    Send,
    Purge(Who),
    Query,
    GetJob(String),
    PutJob(String),
    CancelJob(String),
    Jobs,
    /// Something the service has and this hub has not.
    Unsupported(&'static str),
}

impl Call {
    /// By which throttle it is held; commands and methods are by theirs when more is known of them.
    pub(super) const fn operation(&self) -> Option<Operation> {
        match self {
            Call::Devices
            | Call::Bulk
            | Call::GetDevice(_)
            | Call::PutDevice(_)
            | Call::DeleteDevice(_)
            | Call::Modules(_)
            | Call::GetModule(_)
            | Call::PutModule(_)
            | Call::DeleteModule(_) => Some(Operation::Registry),
            Call::GetTwin(_) => Some(Operation::TwinRead),
            Call::PatchTwin(_) | Call::PutTwin(_) => Some(Operation::TwinUpdate),
            Call::Query => Some(Operation::Query),
            Call::GetJob(_) | Call::PutJob(_) | Call::CancelJob(_) | Call::Jobs => Some(Operation::Job),
            Call::DeviceStatistics
            | Call::ServiceStatistics
            | Call::Method(_)
            | Call::Send
            | Call::Purge(_)
            | Call::Unsupported(_) => None,
        }
    }
}

/// Why a request asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCall {
    /// A path that is none.
    Malformed,
    /// Nothing is there.
    Nothing,
    /// Something is there, but not for this method.
    Method,
}

/// The segments of a path, decoded. An empty last one does not count: SDKs ask for `/devices/`.
pub(super) fn segments(path: &str) -> Result<Vec<String>, NoCall> {
    let path = path.strip_prefix('/').ok_or(NoCall::Malformed)?;
    let path = path.strip_suffix('/').unwrap_or(path);
    if SEGMENTS_MAX < path.split('/').count() {
        return Err(NoCall::Nothing);
    }
    let decoded =
        path.split('/').map(|segment| percent_decode_str(segment).decode_utf8().map(|text| text.into_owned()));
    decoded.collect::<Result<_, _>>().map_err(|_| NoCall::Malformed)
}

/// Reads a call. Names of the service are read in any case of letters, ids as they are.
pub(super) fn read(method: &Method, segments: &[String]) -> Result<Call, NoCall> {
    const NAMES: [&str; 16] = [
        "devices",
        "modules",
        "twins",
        "methods",
        "query",
        "commands",
        "messages",
        "devicebound",
        "servicebound",
        "feedback",
        "abandon",
        "statistics",
        "jobs",
        "v2",
        "cancel",
        "service",
    ];
    let name = |segment: &str| NAMES.into_iter().find(|name| name.eq_ignore_ascii_case(segment)).unwrap_or_default();
    let names: Vec<&str> = segments.iter().map(|segment| name(segment)).collect();
    let device = |at: usize| Who { device: segments[at].clone(), module: None };
    let module = |at: usize| Who { device: segments[at].clone(), module: Some(segments[at + 2].clone()) };
    let text = |at: usize| segments[at].clone();
    let lower = segments.first().map(|first| first.to_ascii_lowercase()).unwrap_or_default();
    let unsupported = match (lower.as_str(), names.as_slice()) {
        ("configurations", _) => Some("configurations (automatic device management)"),
        ("digitaltwins", _) => Some("digital twins (IoT Plug and Play)"),
        ("jobs", ["jobs"]) => Some("import and export jobs; use POST /devices"),
        ("jobs", ["jobs", second]) if *second != "v2" => Some("import and export jobs; use POST /devices"),
        ("devices", [_, _, _]) if segments[2].eq_ignore_ascii_case("applyConfigurationContent") => {
            Some("configurations of IoT Edge devices")
        }
        ("messages", ["messages", "servicebound", "feedback", ..]) => Some("feedback over HTTPS, only over AMQP"),
        ("messages", ["messages", "servicebound", ..]) => Some("notifications of file uploads"),
        _ => None,
    };
    if let Some(what) = unsupported {
        return Ok(Call::Unsupported(what));
    }
    let (get, post, put) = (method == Method::GET, method == Method::POST, method == Method::PUT);
    let (delete, patch) = (method == Method::DELETE, method == Method::PATCH);
    let call = match names.as_slice() {
        ["devices"] if get => Call::Devices,
        ["devices"] if post => Call::Bulk,
        ["devices", "query"] if post => Call::Query,
        ["devices", _] if get => Call::GetDevice(text(1)),
        ["devices", _] if put => Call::PutDevice(text(1)),
        ["devices", _] if delete => Call::DeleteDevice(text(1)),
        ["devices", _, "modules"] if get => Call::Modules(text(1)),
        ["devices", _, "modules", _] if get => Call::GetModule(module(1)),
        ["devices", _, "modules", _] if put => Call::PutModule(module(1)),
        ["devices", _, "modules", _] if delete => Call::DeleteModule(module(1)),
        ["devices", _, "commands"] if delete => Call::Purge(device(1)),
        ["devices", _, "modules", _, "commands"] if delete => Call::Purge(module(1)),
        ["statistics", "devices"] if get => Call::DeviceStatistics,
        ["statistics", "service"] if get => Call::ServiceStatistics,
        ["twins", _] if get => Call::GetTwin(device(1)),
        ["twins", _] if patch => Call::PatchTwin(device(1)),
        ["twins", _] if put => Call::PutTwin(device(1)),
        ["twins", _, "modules", _] if get => Call::GetTwin(module(1)),
        ["twins", _, "modules", _] if patch => Call::PatchTwin(module(1)),
        ["twins", _, "modules", _] if put => Call::PutTwin(module(1)),
        ["twins", _, "methods"] if post => Call::Method(device(1)),
        ["twins", _, "modules", _, "methods"] if post => Call::Method(module(1)),
        ["messages", "devicebound"] if post => Call::Send,
        ["jobs", "v2", "query"] if get => Call::Jobs,
        ["jobs", "v2", _] if get => Call::GetJob(text(2)),
        ["jobs", "v2", _] if put => Call::PutJob(text(2)),
        ["jobs", "v2", _, "cancel"] if post => Call::CancelJob(text(2)),
        ["devices" | "twins", _]
        | ["devices"]
        | ["devices", _, "modules" | "commands"]
        | ["devices" | "twins", _, "modules", _]
        | ["statistics", "devices" | "service"]
        | ["twins", _, "methods"]
        | ["twins", _, "modules", _, "methods"]
        | ["messages", "devicebound"]
        | ["jobs", "v2", _]
        | ["jobs", "v2", _, "cancel"] => return Err(NoCall::Method),
        _ => return Err(NoCall::Nothing),
    };
    Ok(call)
}

impl Call {
    /// The rights of which one is enough.
    pub(super) const fn rights(&self) -> &'static [Right] {
        match self {
            Call::Devices
            | Call::GetDevice(_)
            | Call::Modules(_)
            | Call::GetModule(_)
            | Call::DeviceStatistics
            | Call::GetJob(_)
            | Call::Jobs => &[Right::RegistryRead],
            Call::Bulk
            | Call::PutDevice(_)
            | Call::DeleteDevice(_)
            | Call::PutModule(_)
            | Call::DeleteModule(_)
            | Call::PutJob(_)
            | Call::CancelJob(_) => &[Right::RegistryWrite],
            Call::GetTwin(_)
            | Call::PatchTwin(_)
            | Call::PutTwin(_)
            | Call::Method(_)
            | Call::Send
            | Call::Purge(_) => &[Right::ServiceConnect],
            // Microsoft's tutorial on twins asks for RegistryRead, others query with ServiceConnect alone.
            Call::Query => &[Right::ServiceConnect, Right::RegistryRead],
            // Which right these take the service does not document; whoever may ask for one of them may know this.
            Call::ServiceStatistics | Call::Unsupported(_) => &[Right::ServiceConnect, Right::RegistryRead],
        }
    }

    /// Bytes of a body. Above, it is refused.
    pub(super) const fn body_bytes_max(&self) -> usize {
        match self {
            // A hundred devices, each with tags and desired properties as large as they may be.
            Call::Bulk => 6 * 1024 * 1024,
            Call::GetDevice(_) | Call::DeleteDevice(_) | Call::Devices | Call::Modules(_) => 16 * 1024,
            _ => 256 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(method: &str, path: &str) -> Result<Call, NoCall> {
        read(&method.parse().expect("a method"), &segments(path)?)
    }

    #[test]
    fn paths_are_read_as_the_sdks_write_them() {
        let device = || Who { device: "d 1".to_owned(), module: None };
        let module = || Who { device: "d".to_owned(), module: Some("m%".to_owned()) };
        for (method, path, call) in [
            ("GET", "/devices/", Ok(Call::Devices)),
            ("POST", "/devices", Ok(Call::Bulk)),
            ("POST", "/devices/query", Ok(Call::Query)),
            ("GET", "/devices/query", Ok(Call::GetDevice("query".to_owned()))),
            ("PUT", "/devices/modules", Ok(Call::PutDevice("modules".to_owned()))),
            ("GET", "/devices/a%2Fb", Ok(Call::GetDevice("a/b".to_owned()))),
            ("DELETE", "/devices/d%201/commands", Ok(Call::Purge(device()))),
            ("GET", "/twins/d/modules/m%25", Ok(Call::GetTwin(module()))),
            ("POST", "/twins/d/modules/m%25/methods", Ok(Call::Method(module()))),
            ("POST", "/messages/deviceBound", Ok(Call::Send)),
            ("GET", "/jobs/v2/query", Ok(Call::Jobs)),
            ("PUT", "/jobs/v2/j", Ok(Call::PutJob("j".to_owned()))),
            ("POST", "/jobs/v2/j/cancel", Ok(Call::CancelJob("j".to_owned()))),
            ("DELETE", "/jobs/v2/j", Err(NoCall::Method)),
            ("PATCH", "/devices/d", Err(NoCall::Method)),
            ("GET", "/", Err(NoCall::Nothing)),
            ("GET", "/a/b/c/d/e/f/g/h/i", Err(NoCall::Nothing)),
            ("GET", "/devices/%ff", Err(NoCall::Malformed)),
            ("GET", "*", Err(NoCall::Malformed)),
        ] {
            assert_eq!(of(method, path), call, "{method} {path}");
        }
        for path in
            ["/configurations/c", "/digitaltwins/d", "/jobs/create", "/jobs", "/devices/d/applyConfigurationContent"]
        {
            assert!(matches!(of("GET", path), Ok(Call::Unsupported(_))), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(
            path in "(/|devices|twins|modules|methods|jobs|v2|query|messages|[a-z%0-9]{0,4}){0,20}",
            any in "\\PC{0,40}",
            method in "(GET|PUT|POST|PATCH|DELETE|HEAD)",
        ) {
            let _ = of(&method, &path);
            let _ = of(&method, &format!("/{any}"));
        }
    }
}
