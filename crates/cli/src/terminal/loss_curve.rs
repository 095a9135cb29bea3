//! The loss over the steps, drawn with Braille dots: 2 by 4 to a character.

use std::cmp::Ordering;

/// Dots of a character, by row and column.
const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
/// Characters for the numbers of the vertical axis.
const MARGIN: usize = 8;

/// Draws `points` (step, loss) into `width` by `height` characters. Points that are no numbers are left out; without
/// any there is no picture.
pub(crate) fn draw(points: &[(u64, f64)], width: usize, height: usize) -> Option<String> {
    let points: Vec<(f64, f64)> = points
        .iter()
        .filter(|(_, loss)| loss.is_finite())
        .map(|(step, loss)| (*step as f64, *loss))
        .collect();
    let (first, last) = (points.first()?.0, points.last()?.0);
    let least = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let most = points
        .iter()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let columns = width.saturating_sub(MARGIN + 2).max(8);
    let mut cells = vec![vec![0u8; columns]; height.max(2)];
    let (dots_x, dots_y) = (columns * 2, cells.len() * 4);
    let mut before = None;
    for (x, y) in smooth(&points, first, last, dots_x) {
        let share = if most > least {
            (y - least) / (most - least)
        } else {
            0.5
        };
        let row = ((1.0 - share) * (dots_y - 1) as f64).round() as usize;
        // A steep piece fills its column, so that the line has no holes.
        let from = before.map_or(row, |before: usize| match before.cmp(&row) {
            Ordering::Less => before + 1,
            Ordering::Equal => row,
            Ordering::Greater => before - 1,
        });
        for dot in from.min(row)..=from.max(row) {
            cells[dot / 4][x / 2] |= DOTS[dot % 4][x % 2];
        }
        before = Some(row);
    }
    Some(frame(&cells, least, most, first, last))
}

/// One value a dot column: the mean of the points in it, or the line between its neighbours.
fn smooth(points: &[(f64, f64)], first: f64, last: f64, columns: usize) -> Vec<(usize, f64)> {
    let mut sums = vec![(0.0, 0usize); columns];
    for (step, loss) in points {
        let share = if last > first {
            (step - first) / (last - first)
        } else {
            0.0
        };
        let column = (share * (columns - 1) as f64).round() as usize;
        sums[column].0 += loss;
        sums[column].1 += 1;
    }
    let known: Vec<(usize, f64)> = sums
        .iter()
        .enumerate()
        .filter(|(_, (_, count))| *count > 0)
        .map(|(column, (sum, count))| (column, sum / *count as f64))
        .collect();
    let mut line = Vec::with_capacity(columns);
    for pair in known.windows(2) {
        let ((from, start), (to, end)) = (pair[0], pair[1]);
        for column in from..to {
            let share = (column - from) as f64 / (to - from) as f64;
            line.push((column, start + share * (end - start)));
        }
    }
    line.extend(known.last());
    line
}

fn frame(cells: &[Vec<u8>], least: f64, most: f64, first: f64, last: f64) -> String {
    let mut text = String::new();
    for (row, line) in cells.iter().enumerate() {
        let label = match row {
            0 => format!("{most:.4}"),
            _ if row == cells.len() - 1 => format!("{least:.4}"),
            _ => String::new(),
        };
        let dots: String = line
            .iter()
            .map(|bits| char::from_u32(0x2800 + u32::from(*bits)).unwrap_or(' '))
            .collect();
        text.push_str(&format!(
            "{label:>MARGIN$} ┤{}\n",
            dots.trim_end_matches('\u{2800}')
        ));
    }
    let columns = cells.first().map_or(0, Vec::len);
    let (from, to) = (format!("step {first}"), format!("{last}"));
    let gap = columns.saturating_sub(from.len() + to.len());
    text.push_str(&format!("{:MARGIN$} └{}\n", "", "─".repeat(columns)));
    text.push_str(&format!("{:MARGIN$}  {from}{}{to}", "loss", " ".repeat(gap)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_falls() {
        let points: Vec<(u64, f64)> = (1..=40).map(|step| (step, 4.0 / step as f64)).collect();
        let picture = draw(&points, 40, 6).unwrap_or_default();
        let lines: Vec<&str> = picture.lines().collect();
        assert_eq!(lines.len(), 8);
        assert!(lines[0].starts_with("  4.0000 ┤"), "{picture}");
        assert!(lines[5].starts_with("  0.1000 ┤"), "{picture}");
        assert!(lines[0].chars().count() < lines[5].chars().count(), "{picture}");
        assert!(lines[7].ends_with("40"), "{picture}");
    }

    #[test]
    fn strange_points_do_no_harm() {
        assert_eq!(draw(&[], 40, 6), None);
        assert_eq!(draw(&[(1, f64::NAN)], 40, 6), None);
        assert!(draw(&[(1, 2.0)], 0, 0).is_some());
        assert!(draw(&[(1, 2.0), (2, 2.0), (3, f64::INFINITY)], 40, 6).is_some());
    }
}
