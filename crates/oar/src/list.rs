// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of `list` and `network ls`.
//! Reads nothing: it lays out what it is given, as runc does, because scripts cut its columns.
//! Rows come from the verb; the text goes to stdout.

use std::path::Path;

use coracle_runtime::State;

use crate::log::{escape, shown};

pub(crate) type Row = [String; 6];

const HEAD: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];

// The layout of Go's tabwriter with runc's settings.
const LEAST: usize = 12;
const GAP: usize = 3;

pub(crate) fn row(state: &State) -> Row {
    [
        shown(state.id.as_ref()),
        state.pid.to_string(),
        state.status.to_string(),
        shown(Path::new(&state.bundle).as_os_str()),
        shown(state.created.as_ref()),
        shown(state.owner.as_ref()),
    ]
}

/// A container whose record cannot be read still has a row: `delete --force` takes its ID.
pub(crate) fn unreadable(id: &str) -> Row {
    [escape(id).into_owned(), "0".into(), "unreadable".into(), "-".into(), "-".into(), "-".into()]
}

pub(crate) fn table(rows: &[Row]) -> String {
    columns(&HEAD.map(String::from), rows)
}

pub(crate) fn columns<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let every = || std::iter::once(head).chain(rows);
    let width = |column: usize| {
        let widest = every().map(|row| row[column].chars().count() + GAP).max();
        widest.unwrap_or(LEAST).max(LEAST)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in every() {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            // The last column is not padded.
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_is_runcs() {
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell_and_three() {
        let one = ["web", "4711", "running", "/b/ü", "2026-01-02T03:04:05.6Z", "root"].map(String::from);
        let expected = "\
ID             PID         STATUS       BUNDLE      CREATED                  OWNER
web            4711        running      /b/ü        2026-01-02T03:04:05.6Z   root
abcdefghijkl   0           unreadable   -           -                        -
";
        assert_eq!(table(&[one, unreadable("abcdefghijkl")]), expected);
    }

    #[test]
    fn a_name_cannot_break_the_line() {
        assert_eq!(unreadable("a\nb")[0], "a\\nb");
    }
}
