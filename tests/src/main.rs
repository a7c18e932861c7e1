//! One binary for all programs: `tests demo`, `tests verify`, `tests bench`, and `tests --as PROGRAM …` for the child processes.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    // `cargo demo -- --seconds 30` and `cargo demo --seconds 30` mean the same.
    if args.get(1).is_some_and(|arg| arg == "--") {
        args.remove(1);
    }
    match args.first().and_then(|arg| arg.to_str()) {
        Some("--as") => run_as(&args[1..]),
        Some("--trial") => tests::trials::main(&args[1..]),
        Some("demo") => tests::demo::main(named("cargo demo", &args)),
        Some("verify") => tests::verify::main(named("cargo verify", &args)),
        Some("conformance") => tests::conformance::main(&args[1..]),
        Some("bench") => tests::bench::main(named("tests bench", &args)),
        _ => {
            use std::io::Write as _;
            let _ = writeln!(
                std::io::stderr(),
                "usage: tests demo [OPTIONS] | tests verify [OPTIONS] | tests bench hub|lake|lake-cost [OPTIONS] | tests conformance DIR | \
                 tests --as edge-agent|cloud-ingester|simulator …"
            );
            shared::cli::Exit::Usage.into()
        }
    }
}

fn run_as(args: &[OsString]) -> ExitCode {
    if std::env::var_os(tests::program::LEAVE_WITH_PARENT).is_some() {
        std::thread::spawn(leave_with_parent);
    }
    let run: fn(Vec<OsString>) -> ExitCode = match args.first().and_then(|arg| arg.to_str()) {
        Some("edge-agent") => |args| edge_agent::cli::main(args),
        Some("cloud-ingester") => |args| cloud_ingester::cli::main(args),
        Some("simulator") => |args| simulator::cli::main(args),
        _ => return shared::cli::Exit::Usage.into(),
    };
    run(args.to_vec())
}

/// Ends the process once standard input does: nobody is left who would stop it.
fn leave_with_parent() {
    // Nobody writes into it; an error ends it too.
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    std::process::exit(shared::cli::Exit::Retry as i32);
}

/// The arguments with the name under which the user called, for help and errors.
fn named(name: &str, args: &[OsString]) -> Vec<OsString> {
    std::iter::once(name.into()).chain(args[1..].iter().cloned()).collect()
}
