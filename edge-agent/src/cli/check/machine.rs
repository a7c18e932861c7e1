//! What a technician would look at first: power, heat, a file system that forgets, who may look at the page.

use std::net::TcpListener;

use super::Finding;
use crate::config::Config;
use crate::machine;
use crate::outbox::lock::Lock;

/// A Raspberry Pi slows itself down above this.
const HOT_C: f64 = 80.0;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if machine::is_in_memory(&config.outbox.path) {
        let text =
            format!("{} lies in memory: what is held there is gone with the power", config.outbox.path.display());
        findings.push(Finding::note("outbox", text).so("set `outbox.path` to a place on a disk"));
    }
    findings.extend(machine::is_under_voltage().map(power));
    findings.extend(machine::heat().map(heat));
    findings.push(page(config));
    findings
}

fn power(weak: bool) -> Finding {
    match weak {
        true => {
            Finding::fail("power", "the supply is too weak: the processor is slowed down, the SD card may be damaged")
                .so("use the supply made for this board, and a short cable")
        }
        false => Finding::ok("power", "the voltage is high enough"),
    }
}

fn heat(degrees: f64) -> Finding {
    let text = format!("the processor has {degrees:.0} degrees Celsius");
    if HOT_C <= degrees {
        return Finding::note("heat", text).so("it is slowed down from 80 on: give it air, or a heat sink");
    }
    Finding::ok("heat", text)
}

fn page(config: &Config) -> Finding {
    let listen = config.http.listen;
    let runs = Lock::holder(&config.outbox.path).is_some();
    match TcpListener::bind(listen) {
        Err(error) if !runs => Finding::fail("page", format!("{listen} cannot be listened on ({error})"))
            .so("choose another `http.listen`, or end what listens there: `ss -ltnp`"),
        _ if !listen.ip().is_loopback() => {
            let text = format!("whoever reaches {listen} sees status, page and metrics; nothing can be changed there");
            Finding::note("page", text)
                .so("leave `http.listen` on 127.0.0.1 where that is not meant, and look through `ssh -L`")
        }
        _ => Finding::ok("page", format!("http://{listen}/ on this machine only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Grade;

    #[test]
    fn what_is_wrong_comes_with_what_to_do() {
        for (finding, grade) in
            [(power(true), Grade::Fail), (power(false), Grade::Ok), (heat(81.2), Grade::Note), (heat(45.0), Grade::Ok)]
        {
            assert_eq!(finding.grade, grade, "{finding:?}");
            assert_eq!(finding.todo.is_some(), grade != Grade::Ok, "{finding:?}");
        }
    }
}
