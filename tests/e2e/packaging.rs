//! What the packages and the image for Raspberry Pis run beside the programs: the setup from a file on the boot partition,
//! its page, and the update that goes back by itself. Shell scripts, run here in folders that stand for a machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../edge-agent/packaging");

const CONNECTION: &str = "HostName=local-hub.azure-devices.net;DeviceId=gw-01;SharedAccessKey=c2VjcmV0IQ==";

/// A folder that stands for a gateway's card.
struct Card {
    root: tempfile::TempDir,
}

impl Card {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["boot/firmware", "leds/ACT", "etc", "data"] {
            fs::create_dir_all(root.path().join(folder)).expect("makes a folder");
        }
        let card = Self { root };
        for file in ["leds/ACT/trigger", "leds/ACT/delay_on", "leds/ACT/delay_off"] {
            card.write(file, "");
        }
        card.write("agent", format!("#!/bin/sh\nexec '{}' --as edge-agent \"$@\"\n", env!("CARGO_BIN_EXE_tests")));
        make_executable(&card.path("agent"));
        card
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).expect("writes");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(format!("{PACKAGING}/image/root/usr/lib/edge-setup/{name}"));
        let places = [("SETUP_AGENT", "agent"), ("SETUP_LEDS", "leds"), ("SETUP_CONSOLE", "console")];
        command.env("SETUP_ROOT", self.root.path()).env("SETUP_TOLD", self.path("run/edge-setup"));
        command.envs(places.map(|(variable, place)| (variable, self.path(place))));
        command
    }

    /// Switches the gateway on: what it said, and its exit code.
    fn start(&self) -> (Option<i32>, String) {
        let output = self.script("setup").stdin(Stdio::null()).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a browser is shown.
    fn page(&self) -> String {
        let mut child = self.script("page").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let request = b"GET /../../etc/shadow?<script> HTTP/1.1\r\nHost: gateway\r\n\r\n";
        child.stdin.take().expect("a pipe").write_all(request).expect("asks");
        String::from_utf8_lossy(&child.wait_with_output().expect("it ends").stdout).into_owned()
    }
}

fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("makes it executable");
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn every_script_is_one_that_its_shell_can_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let mut scripts = 0;
    for folder in [root.join(".ci"), PathBuf::from(PACKAGING)] {
        for entry in walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok) {
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let Some(first) = text.lines().next().filter(|line| line.starts_with("#!")) else { continue };
            let shell = if first.contains("bash") { "bash" } else { "sh" };
            let output = Command::new(shell).arg("-n").arg(entry.path()).output().expect("the shell starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            scripts += 1;
        }
    }
    assert!(10 < scripts, "{scripts} scripts");
}

#[test]
fn a_new_card_waits_for_its_file_and_says_so() {
    let card = Card::new();
    fs::copy(format!("{PACKAGING}/image/boot/gateway.txt"), card.path("boot/firmware/gateway.txt")).expect("copies");
    let (code, said) = card.start();
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("fill in gateway.txt"), "{said}");
    assert!(card.path("boot/firmware/gateway.txt").is_file(), "the form stays");
    assert!(!card.path("etc/edge-agent").exists() && card.page().contains("not set up"), "{}", card.page());
}

#[test]
fn a_file_of_any_editor_sets_the_gateway_up_and_its_secrets_leave_the_boot_partition() {
    let card = Card::new();
    let text = format!(
        "\u{feff}# ours\r\n gateway-id = gw-01 \r\nconnection-string = \"{CONNECTION}\"\r\nhub-ca=hub.pem\r\nhub-host =10.0.2.2\r\n\
         wifi-ssid = L\u{f6}t \"1\"\r\nwifi-password = a\"b\\c$(id)`\r\nwifi-country = DE\r\nbroker = 192.0.2.5\r\nbroker-topics = a/#, b/+/c\r\n\
         ssh-key = ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBx3j3cG9J2cRkq0yqT4 me@here"
    );
    card.write("boot/firmware/gateway.txt", text);
    card.write("boot/firmware/hub.pem", include_str!("../../edge-agent/src/intake/listener/testdata/ca.pem"));
    let (code, said) = card.start();
    assert_eq!(code, Some(0), "{said}");
    let config: toml::Table = card.read("etc/edge-agent/edge.toml").parse().expect("TOML");
    assert_eq!(config["hub"]["connection-string"]["credential"].as_str(), Some("hub"));
    assert_eq!(config["hub"]["ca-file"].as_str(), Some("/etc/edge-agent/hub.pem"));
    assert_eq!(config["intake"]["broker"]["port"].as_integer(), Some(1883));
    assert_eq!(config["intake"]["broker"]["topics"].as_array().map(Vec::len), Some(2));
    assert_eq!(card.read("etc/hostname"), "gw-01\n");
    assert_eq!(card.read("etc/edge-agent/connection-string"), format!("{CONNECTION}\n"));
    assert_eq!(mode_of(&card.path("etc/edge-agent/connection-string")), 0o600);
    let wifi = card.read("etc/wpa_supplicant/wpa_supplicant-wlan0.conf");
    assert!(wifi.contains("ssid=4cc3b67420223122\n"), "{wifi}");
    assert!(wifi.contains("psk=\"a\"b\\c$(id)`\"\n"), "{wifi}");
    assert!(card.read("root/.ssh/authorized_keys").starts_with("ssh-ed25519 "));
    let shown = card.read("boot/firmware/gateway.taken.txt") + &card.page() + &said + &card.read("console");
    assert!(!card.path("boot/firmware/gateway.txt").exists());
    assert!(!shown.contains("c2VjcmV0") && !shown.contains("$(id)"), "{shown}");
    // Switched on again, nothing changes; and one setting can be changed without knowing the secrets.
    assert_eq!(card.start().0, Some(0));
    let taken = card.read("boot/firmware/gateway.taken.txt").replace("10.0.2.2", "10.0.2.3");
    card.write("boot/firmware/gateway.txt", taken);
    fs::remove_file(card.path("boot/firmware/hub.pem")).expect("removes");
    let (code, said) = card.start();
    assert_eq!(code, Some(0), "{said}");
    assert!(card.read("etc/edge-agent/edge.toml").contains("10.0.2.3"));
    assert_eq!(card.read("etc/edge-agent/connection-string"), format!("{CONNECTION}\n"));
    assert!(card.read("etc/edge-agent/hub.pem").contains("CERTIFICATE"), "kept with the settings");
    // A root that forgets gets the same again.
    fs::remove_dir_all(card.path("etc")).expect("removes");
    fs::create_dir(card.path("etc")).expect("makes");
    assert_eq!(card.start().0, Some(0));
    assert_eq!(card.read("etc/edge-agent/connection-string"), format!("{CONNECTION}\n"));
}

#[test]
fn a_provisioning_service_needs_a_name_and_a_key() {
    let card = Card::new();
    card.write("boot/firmware/gateway.txt", "id-scope = 0ne0000CAFE\nkey = no!\n");
    let (code, said) = card.start();
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("line 1: id-scope needs gateway-id") && said.contains("line 2: key is not base64"), "{said}");
    card.write("boot/firmware/gateway.txt", "gateway-id = gw-7\nid-scope = 0ne0000CAFE\ngroup-key = c2VjcmV0IQ==\n");
    let (code, said) = card.start();
    assert_eq!(code, Some(0), "{said}");
    let config: toml::Table = card.read("etc/edge-agent/edge.toml").parse().expect("TOML");
    assert_eq!(config["provisioning"]["registration-id"].as_str(), Some("gw-7"));
    assert_eq!(config["provisioning"]["group-key"]["credential"].as_str(), Some("group-key"));
    assert_eq!(card.read("etc/edge-agent/group-key"), "c2VjcmV0IQ==\n");
}

#[test]
fn every_mistake_is_named_with_its_line_and_a_gateway_that_works_goes_on() {
    let card = Card::new();
    let good = format!("gateway-id = gw-01\nconnection-string = {CONNECTION}\n");
    card.write("boot/firmware/gateway.txt", &good);
    assert_eq!(card.start().0, Some(0));
    let before = card.read("etc/edge-agent/edge.toml");
    let many = "gateway-id = gw 01\nhub-prot = 1\nconnection-string = HostName=a\nhub-port = 99999\nwifi-ssid = x\nnonsense\n\
                listener = 0.0.0.0:1884\nhub-ca = ../../etc/shadow\nread-only = perhaps\nbroker-password = x\ngateway-id = b\n\
                agent-config = edge.toml\nntp = a b\u{1b}[2J\n";
    card.write("boot/firmware/gateway.txt", many);
    let (code, said) = card.start();
    assert_eq!(code, Some(64), "{said}");
    let lines = said.lines().skip(1).map(str::trim).collect::<Vec<_>>();
    for number in 1..=13 {
        let named = lines.iter().filter(|line| line.starts_with(&format!("line {number}: "))).count();
        assert_eq!(named, 1, "line {number} of\n{said}");
    }
    assert!(said.contains("goes on as it was") && !said.contains('\u{1b}'), "{said}");
    assert_eq!(card.read("etc/edge-agent/edge.toml"), before, "nothing was changed");
    assert_eq!(card.read("boot/firmware/gateway.txt"), many, "the file stays, to be corrected");
    assert_eq!((card.read("leds/ACT/trigger").trim(), card.read("leds/ACT/delay_on").trim()), ("timer", "100"));
    let page = card.page();
    let (head, body) = page.split_once("\r\n\r\n").expect("an answer over HTTP");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(&format!("Content-Length: {}\r\n", body.len())));
    assert!(body.contains("has mistakes") && body.contains("line 13: ntp") && !body.contains("<script"), "{body}");
    assert!(card.read("console").contains("line 6: "), "the screen says so, too");
    assert!(card.read("etc/issue.d/gateway.issue").contains("line 6: "));
    // A better one is taken, and the alarm ends.
    card.write("boot/firmware/gateway.txt", good.replace("gw-01\n", "gw-02\n"));
    assert_eq!(card.start().0, Some(0));
    assert_eq!(card.read("etc/hostname"), "gw-02\n");
    assert_ne!(card.read("leds/ACT/trigger").trim(), "timer");
}

#[test]
fn what_only_the_agent_knows_is_named_as_the_agent_names_it() {
    let card = Card::new();
    let text = format!("connection-string = {CONNECTION}\nagent-config = more.toml\n");
    card.write("boot/firmware/gateway.txt", &text);
    card.write("boot/firmware/more.toml", "[uplink]\r\nwindwo = 1\r\n[outbox]\r\nbytes-max = \"12 bananas\"\r\n");
    let (code, said) = card.start();
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("windwo") && said.contains("bananas"), "{said}");
    card.write("boot/firmware/more.toml", "[outbox]\r\nbytes-max = \"12MiB\"\r\n");
    let (code, said) = card.start();
    assert_eq!(code, Some(0), "{said}");
    assert!(card.read("etc/edge-agent/edge.toml").contains("12MiB"));
}

/// A file that is there and of no use would keep the agent from starting, with nobody to tell; and a gateway is set up
/// before it has a network.
#[test]
fn files_are_looked_into_and_no_other_machine_is_asked() {
    let card = Card::new();
    let hub = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    hub.set_nonblocking(true).expect("set");
    let port = hub.local_addr().expect("an address").port();
    let text = format!(
        "connection-string = {CONNECTION}\nhub-host = 127.0.0.1\nhub-port = {port}\nlistener = 0.0.0.0:1884\nlistener-passwords = users\n"
    );
    card.write("boot/firmware/gateway.txt", &text);
    card.write("boot/firmware/users", "press-3:not a digest\n");
    let (code, said) = card.start();
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("the agent refuses it: listener: cannot use the password file users: line 1"), "{said}");
    card.write("boot/firmware/users", include_str!("../../edge-agent/src/intake/listener/testdata/passwords"));
    let (code, said) = card.start();
    assert_eq!(code, Some(0), "{said}");
    assert!(hub.accept().is_err(), "the hub was dialled");
    // Nor is an agent asked too much that cannot answer.
    card.write("agent", "#!/bin/sh\nexit 70\n");
    card.write("boot/firmware/gateway.txt", format!("connection-string = {CONNECTION}\n"));
    let (code, said) = card.start();
    assert!(code == Some(64) && said.contains("the agent could not be asked (exit code 70)"), "{said}");
}

#[test]
fn passwords_and_the_word_that_none_are_needed_exclude_each_other() {
    let card = Card::new();
    let users = include_str!("../../edge-agent/src/intake/listener/testdata/passwords");
    for (anonymous, code) in [("yes", 64), ("no", 0)] {
        let text = format!(
            "connection-string = {CONNECTION}\nlistener = 0.0.0.0:1884\nlistener-passwords = users\nlistener-anonymous = {anonymous}\n"
        );
        card.write("boot/firmware/gateway.txt", text);
        card.write("boot/firmware/users", users);
        let (got, said) = card.start();
        assert_eq!(got, Some(code), "{said}");
        let named = said.contains("line 4: listener-anonymous is yes, and listener-passwords are there");
        assert_eq!(named, code == 64, "{said}");
    }
    assert!(card.read("etc/edge-agent/edge.toml").contains("anonymous = false"));
}

#[test]
fn no_file_whatever_is_in_it_breaks_the_setup() {
    let mut noise: u32 = 7;
    for round in 0..6 {
        let card = Card::new();
        let bytes: Vec<u8> = (0..4096)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            })
            .collect();
        let bytes = match round {
            0 => vec![0; 4096],
            1 => b"=".repeat(4096),
            2 => b"gateway-id=$(touch pwned)\nhub-ca=-rf\nconnection-string=`reboot`\n".to_vec(),
            3 => b"x = 1\n".repeat(20_000),
            _ => bytes,
        };
        card.write("boot/firmware/gateway.txt", &bytes);
        let (code, said) = card.start();
        assert!([Some(64), Some(75)].contains(&code), "round {round}: {code:?} {said}");
        assert!(!said.chars().any(|letter| letter.is_control() && letter != '\n'), "round {round}: {said:?}");
        assert!(!Path::new("pwned").exists() && !card.path("etc/edge-agent").exists());
    }
}

/// With a read-only root `/etc` is at each start what it was when the root was written to last.
#[test]
fn a_root_that_forgets_has_at_each_start_what_was_taken_last() {
    const LINES: &str = include_str!("../../edge-agent/src/intake/listener/testdata/passwords");
    let (first, second) = LINES.split_once('\n').expect("two users");
    let card = Card::new();
    let settings = format!(
        "gateway-id = gw-01\nconnection-string = {CONNECTION}\nlistener = 0.0.0.0:1884\nlistener-passwords = users\nread-only = yes\n"
    );
    let (form, users) = ("boot/firmware/gateway.txt", "etc/edge-agent/users");
    let bring = |settings: &str, line: &str| {
        card.write(form, settings);
        card.write("boot/firmware/users", line);
        let (code, said) = card.start();
        assert_eq!((code, card.read(users).trim()), (Some(0), line.trim()), "{said}");
    };
    bring(&settings, first);
    fs::rename(card.path("etc"), card.path("lower")).expect("renames");
    let forget = || {
        let copied = Command::new("rm").arg("-rf").arg(card.path("etc")).status().is_ok_and(|done| done.success())
            && Command::new("cp").arg("-a").arg(card.path("lower")).arg(card.path("etc")).status().is_ok();
        assert!(copied && card.read(users).trim() == first.trim());
    };
    forget();
    // The same settings, and a file that is another.
    bring(&settings, second);
    for (form_says, code) in [(None, 0), (Some("gateway-id = two words\n"), 64)] {
        forget();
        if let Some(text) = form_says {
            card.write(form, text);
        }
        let (got, said) = card.start();
        assert_eq!((got, card.read(users).trim()), (Some(code), second.trim()), "{said}");
    }
    // The plug was pulled while something was kept.
    forget();
    fs::remove_file(card.path(form)).expect("removes");
    fs::rename(card.path("data/setup"), card.path("data/setup.old")).expect("renames");
    let (code, said) = card.start();
    assert_eq!((code, card.read(users).trim()), (Some(0), second.trim()), "{said}");
}

#[test]
fn a_read_only_root_is_written_into_the_kernels_command_line_and_taken_out_again() {
    let card = Card::new();
    card.write("boot/firmware/cmdline.txt", "console=tty0 root=LABEL=edge-root rw rootwait\n");
    for (wanted, there) in [("yes", true), ("yes", true), ("no", false)] {
        let text = format!("connection-string = {CONNECTION}\nread-only = {wanted}\n");
        card.write("boot/firmware/gateway.txt", text);
        assert_eq!(card.start().0, Some(0));
        let line = card.read("boot/firmware/cmdline.txt");
        assert_eq!(line.matches("overlayroot=tmpfs").count(), usize::from(there), "{line}");
        assert!(line.contains("root=LABEL=edge-root rw rootwait") && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn a_one_wire_bus_is_written_into_the_firmwares_settings_and_taken_out_again() {
    let card = Card::new();
    let before = "arm_64bit=1\n[pi4]\narm_boost=1\n";
    card.write("boot/firmware/config.txt", before);
    let custom = "etc/default/raspi-firmware-custom";
    for (wanted, line) in [("4", Some("pin=4")), ("04", Some("pin=4")), ("17", Some("pin=17")), ("", None), ("", None)]
    {
        let text = format!("connection-string = {CONNECTION}\none-wire = {wanted}\n");
        card.write("boot/firmware/gateway.txt", text);
        assert_eq!(card.start().0, Some(0));
        let added =
            line.map(|line| format!("# Of gateway.txt:\n[all]\ndtoverlay=one-wire,{line}\n")).unwrap_or_default();
        assert_eq!(card.read("boot/firmware/config.txt"), format!("{before}{added}"), "{wanted}");
        assert_eq!(card.read(custom), added, "a kernel that comes later makes config.txt anew");
    }
    for wrong in ["28", "1", "GPIO4", "-4", "4,17"] {
        card.write("boot/firmware/gateway.txt", format!("connection-string = {CONNECTION}\none-wire = {wrong}\n"));
        let (code, said) = card.start();
        assert!(code == Some(64) && said.contains("line 2: one-wire has to be"), "{wrong}: {said}");
    }
}

/// A folder that stands for a machine with the package; programs that the scripts call are stood in for.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    /// With version 1 installed and running, if `runs`.
    fn new(runs: bool) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["usr/bin", "usr/share/edge-agent", "etc", "var/lib", "run/systemd/system", "fakes"] {
            fs::create_dir_all(root.path().join(folder)).expect("makes a folder");
        }
        let machine = Self { root };
        fs::copy(format!("{PACKAGING}/deb/edge.toml"), machine.path("usr/share/edge-agent/edge.toml")).expect("copies");
        // What an agent does is what is written in its program: good ones stay, dying ones end after they were ready.
        let systemctl = r#"#!/bin/sh
echo "$*" >> "$DPKG_ROOT/calls"
program="$(cat "$DPKG_ROOT/usr/bin/edge-agent")"
case "$*" in
    restart*|start*) case "$program" in *bad*) rm -f "$DPKG_ROOT/active"; exit 1 ;; *) touch "$DPKG_ROOT/active" ;; esac ;;
    *is-active*) case "$program" in *dying*) rm -f "$DPKG_ROOT/active" ;; esac; [ -e "$DPKG_ROOT/active" ] ;;
    *MainPID*) case "$program" in *restless*) date +%N ;; *) echo 7 ;; esac ;;
esac
"#;
        for (name, text) in
            [("systemctl", systemctl), ("systemd-sysusers", ""), ("deb-systemd-helper", ""), ("chown", "")]
                .into_iter()
                .chain(
                    ["journalctl", "udevadm", "deb-systemd-invoke", "userdel", "groupdel", "getent"]
                        .map(|name| (name, "")),
                )
        {
            let path = machine.path("fakes").join(name);
            fs::write(&path, if text.is_empty() { "#!/bin/sh\n" } else { text }).expect("writes");
            make_executable(&path);
        }
        machine.put("agent 1, good");
        if runs {
            fs::write(machine.path("active"), "").expect("writes");
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// As dpkg unpacks a program.
    fn put(&self, program: &str) {
        fs::write(self.path("usr/bin/edge-agent"), program).expect("writes");
        make_executable(&self.path("usr/bin/edge-agent"));
    }

    fn script(&self, name: &str, args: &[&str]) -> Output {
        let path = format!("{}:{}", self.path("fakes").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.arg(format!("{PACKAGING}/deb/{name}")).args(args).stdin(Stdio::null());
        command.env("DPKG_ROOT", self.root.path()).env("PATH", path).env("EDGE_AGENT_WATCHED", "1");
        command.output().expect("the shell starts")
    }

    /// As dpkg upgrades: true if the package is configured afterwards.
    fn upgrade(&self, from: &str, program: &str) -> (bool, String) {
        assert!(self.script("preinst", &["upgrade", from, "9"]).status.success());
        self.put(program);
        let output = self.script("postinst", &["configure", from]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn an_update_that_does_not_stay_ready_goes_back_to_the_agent_that_worked() {
    for program in ["agent 2, bad", "agent 2, dying", "agent 2, restless"] {
        let machine = Machine::new(true);
        let (configured, said) = machine.upgrade("1.0", program);
        assert!(!configured && said.contains("did not reach \"ready\""), "{program}: {said}");
        assert!(said.contains("the agent of 1.0 was put back and runs"), "{said}");
        assert_eq!(machine.read("usr/bin/edge-agent"), "agent 1, good");
        assert!(machine.path("active").exists(), "it runs");
        // dpkg asks the same package again: still no good, still the former one.
        assert!(!machine.script("postinst", &["configure", "1.0"]).status.success());
        assert_eq!(machine.read("usr/bin/edge-agent"), "agent 1, good");
        // A better package.
        let (configured, said) = machine.upgrade("9", "agent 3, good");
        assert!(configured, "{said}");
        assert_eq!(machine.read("usr/bin/edge-agent"), "agent 3, good");
        assert!(!machine.path("var/lib/edge-agent-update").exists(), "nothing is left over");
    }
}

/// dpkg names the refused version as the one before: the program is an older one's still.
#[test]
fn after_refusals_in_a_row_the_agent_that_worked_is_the_one_put_back_and_named() {
    let machine = Machine::new(true);
    for (from, program) in [("1.0", "agent 2, bad"), ("2.0", "agent 3, dying"), ("3.0", "agent 4, bad")] {
        let (configured, said) = machine.upgrade(from, program);
        assert!(!configured && said.contains("the agent of 1.0 was put back and runs"), "{program}: {said}");
        assert_eq!(machine.read("usr/bin/edge-agent"), "agent 1, good");
        assert!(machine.path("active").exists(), "it runs");
    }
    let (configured, said) = machine.upgrade("4.0", "agent 5, good");
    assert!(configured && machine.read("usr/bin/edge-agent") == "agent 5, good", "{said}");
    assert!(!machine.path("var/lib/edge-agent-update").exists(), "nothing is left over");
}

#[test]
fn an_upgrade_keeps_the_configuration_and_starts_nothing_that_did_not_run() {
    let machine = Machine::new(false);
    assert!(machine.script("postinst", &["configure", ""]).status.success(), "the first installation");
    assert!(
        !machine.read("calls").contains("start edge-agent"),
        "it is not known yet who it is: {}",
        machine.read("calls")
    );
    fs::write(machine.path("etc/edge-agent/edge.toml"), "# mine\n").expect("writes");
    let (configured, said) = machine.upgrade("1.0", "agent 2, bad");
    assert!(configured, "{said}");
    assert_eq!(machine.read("etc/edge-agent/edge.toml"), "# mine\n");
    assert_eq!(machine.read("usr/bin/edge-agent"), "agent 2, bad");
    assert!(!machine.read("calls").contains("restart"), "{}", machine.read("calls"));
}

#[test]
fn purge_leaves_nothing_and_removal_leaves_what_is_the_users() {
    let machine = Machine::new(true);
    assert!(machine.script("postinst", &["configure", ""]).status.success());
    for file in ["etc/edge-agent/connection-string", "var/lib/edge-agent/outbox.db"] {
        fs::create_dir_all(machine.path(file).parent().expect("a folder")).expect("makes");
        fs::write(machine.path(file), "x").expect("writes");
    }
    assert!(
        machine.script("prerm", &["remove"]).status.success() && machine.script("postrm", &["remove"]).status.success()
    );
    assert!(machine.path("var/lib/edge-agent/outbox.db").exists() && machine.path("etc/edge-agent/edge.toml").exists());
    assert!(machine.script("postrm", &["purge"]).status.success());
    assert!(!machine.path("var/lib/edge-agent").exists() && !machine.path("etc/edge-agent").exists());
}
