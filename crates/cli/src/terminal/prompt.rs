//! Questions to the person at the keyboard.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, ensure};

/// A line of text.
pub(crate) fn line(question: &str) -> anyhow::Result<String> {
    ensure!(
        io::stdin().is_terminal(),
        "{question}: nobody is there to ask; give it as an option"
    );
    let terminal = console::Term::stderr();
    terminal
        .write_str(&format!("{question}: "))
        .context("cannot write to the terminal")?;
    let answer = terminal.read_line().context("cannot read from the terminal")?;
    Ok(answer.trim().to_owned())
}

/// A password: unseen from a terminal, else the first line of stdin.
pub(crate) fn password(question: &str) -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        let terminal = console::Term::stderr();
        terminal
            .write_str(&format!("{question}: "))
            .context("cannot write to the terminal")?;
        return terminal
            .read_secure_line()
            .context("cannot read from the terminal");
    }
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the password from stdin")?;
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    ensure!(
        !password.is_empty(),
        "no password on stdin; write it there, followed by a line break"
    );
    Ok(password)
}
