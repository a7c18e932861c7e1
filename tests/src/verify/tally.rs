//! Reads libtest's output line by line: what passed, failed, was ignored.

/// The results of some test binaries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) failures: Vec<String>,
    pub(super) ignored: Vec<String>,
}

impl Tally {
    /// Takes one line of output. `test NAME ... ok|FAILED|ignored, REASON` names tests, `test result: …` counts them:
    /// a binary that dies on the way has counted nothing and failed as a command.
    pub(super) fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
        } else if let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            match result.strip_prefix("ignored") {
                Some(reason) => self.ignored.push(format!("{name}{}", reason.replacen(", ", ": ", 1))),
                None if result == "FAILED" => self.failures.push(name.to_owned()),
                None => {}
            }
        }
    }
}

fn count_before(counts: &str, word: &str) -> usize {
    let before = counts.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_binaries_add_up_and_names_are_kept() {
        let output = "
running 3 tests
test link::live_to_offline ... ok
test window::acks_out_of_order ... FAILED
test long::all_seeds ... ignored, takes an hour
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.19s
test result: ok. 34 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.19s
";
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        let expected = Tally {
            passed: 35,
            failed: 1,
            failures: vec!["window::acks_out_of_order".to_owned()],
            ignored: vec!["long::all_seeds: takes an hour".to_owned()],
        };
        assert_eq!(tally, expected);
    }
}
