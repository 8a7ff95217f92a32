//! Groups of runs that differ only in their seed.

use burn_rehearsal_train::metrics::{MeanSd, mean_sd};
use burn_rehearsal_train::report::RunReport;
use serde_json::Value;

/// The method that training times are compared with.
const REFERENCE: &str = "incremental";

/// The meaning of the fields of [`RunReport::config`], which only the program that made the runs
/// knows. All names are those of top-level fields.
///
/// ```
/// use burn_rehearsal_report::ConfigFields;
///
/// let fields = ConfigFields {
///     work: &["data", "model"],
///     neutral: &["out"],
///     headline: &["data", "model", "epochs"],
///     ..ConfigFields::default()
/// };
/// assert_eq!(fields.changed, None);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct ConfigFields<'a> {
    /// Fields that define the amount of work. Training times are compared only between runs with
    /// the same values.
    pub work: &'a [&'a str],
    /// Fields that do not distinguish runs, for example the output directory.
    pub neutral: &'a [&'a str],
    /// The field that lists the names of the fields that the user changed, if there is one.
    pub changed: Option<&'a str>,
    /// Fields that the head of a page shows if all runs have the same values.
    pub headline: &'a [&'a str],
}

/// Runs side by side, from which tables, files and figures are made.
///
/// Runs that differ only in their seed are one [`Group`]. The [crate's documentation](crate)
/// explains the outputs.
///
/// ```
/// use burn_rehearsal_report::{Comparison, ConfigFields};
/// use burn_rehearsal_train::report::{RunReport, schema::EXAMPLE};
///
/// let reports: Vec<RunReport> = vec![serde_json::from_str(EXAMPLE)?];
/// let comparison = Comparison::new(&reports, ConfigFields::default());
/// println!("{}", comparison.table());
/// assert!(comparison.html().starts_with("<!DOCTYPE html>"));
/// assert!(comparison.accuracy_svg().starts_with("<svg"));
/// assert!(comparison.summary_csv().starts_with("run,method,seeds,average_top1_mean,"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Comparison<'a> {
    pub(crate) reports: &'a [RunReport],
    pub(crate) fields: ConfigFields<'a>,
    pub(crate) groups: Vec<Group<'a>>,
}

/// Runs of one method and one configuration, one for each seed.
///
/// ```
/// use burn_rehearsal_report::{Comparison, ConfigFields};
/// use burn_rehearsal_train::report::{RunReport, schema::EXAMPLE};
///
/// let mut reports: Vec<RunReport> = vec![serde_json::from_str(EXAMPLE)?; 2];
/// (reports[1].seed, reports[1].time.train_s) = (1, 20.0);
/// let comparison = Comparison::new(&reports, ConfigFields::default());
/// let group = &comparison.groups()[0];
/// assert_eq!(group.title(), "rehearsal (2 seeds)");
/// let seconds = group.mean(|report| Some(report.time.train_s)).unwrap();
/// assert_eq!(format!("{seconds:.1}"), "19.0 ± 1.4");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// The name of the method. If other groups have the same method, it includes the options that
    /// distinguish this one.
    pub label: String,
    /// The runs, at least one, in the order in which they were passed.
    pub reports: Vec<&'a RunReport>,
}

impl Group<'_> {
    /// The name of the method.
    pub fn method(&self) -> &str {
        // A group has at least one report.
        self.reports.first().map_or("", |report| &report.method)
    }

    /// The number of tasks.
    pub fn tasks(&self) -> usize {
        self.reports.iter().map(|report| report.tasks.len()).max().unwrap_or(0)
    }

    /// Whether all runs are complete: false if one was interrupted.
    pub fn complete(&self) -> bool {
        self.reports.iter().all(|report| report.complete)
    }

    /// Mean and sample standard deviation of a figure over the runs that have it. `None` if no run
    /// has it.
    pub fn mean(&self, figure: impl Fn(&RunReport) -> Option<f64>) -> Option<MeanSd> {
        let values: Vec<f64> = self.reports.iter().filter_map(|report| figure(report)).collect();
        mean_sd(&values)
    }

    pub(crate) fn train_s(&self) -> Option<MeanSd> {
        self.mean(|report| Some(report.time.train_s))
    }

    /// Mean training time divided by `reference`, in seconds.
    pub(crate) fn relative_time(&self, reference: Option<f64>) -> Option<f64> {
        let ratio = self.train_s()?.mean / reference?;
        Some(ratio).filter(|ratio| ratio.is_finite())
    }

    /// The label, with the number of runs if there are several, such as `rehearsal (3 seeds)`.
    pub fn title(&self) -> String {
        let seeds: std::collections::BTreeSet<u64> =
            self.reports.iter().map(|report| report.seed).collect();
        match self.reports.len() {
            1 => self.label.clone(),
            runs if runs == seeds.len() => format!("{} ({runs} seeds)", self.label),
            runs => format!("{} ({runs} runs)", self.label),
        }
    }
}

impl<'a> Comparison<'a> {
    /// Groups runs by method, number of ranks, device, number of tasks and configuration.
    ///
    /// In the configuration, [neutral](ConfigFields::neutral) fields, the list of
    /// [changed](ConfigFields::changed) fields and all fields named `seed` are ignored. Groups are
    /// ordered by the name of their method, then as in `reports`.
    pub fn new(reports: &'a [RunReport], fields: ConfigFields<'a>) -> Self {
        let mut keyed: Vec<(Key, Group<'_>)> = Vec::new();
        for report in reports {
            let key = fields.key(report);
            match keyed
                .iter_mut()
                .find(|(other, group)| *other == key && group.method() == report.method)
            {
                Some((_, group)) => group.reports.push(report),
                None => {
                    keyed.push((key, Group { label: report.method.clone(), reports: vec![report] }))
                }
            }
        }
        keyed.sort_by(|(_, a), (_, b)| a.method().cmp(b.method()));
        let labels: Vec<String> = (0..keyed.len()).map(|index| label(index, &keyed)).collect();
        let groups = keyed
            .into_iter()
            .zip(labels)
            .map(|((_, group), label)| Group { label, ..group })
            .collect();
        Self { reports, fields, groups }
    }

    /// The groups, in order.
    pub fn groups(&self) -> &[Group<'a>] {
        &self.groups
    }

    /// Whether some method ran with several seeds.
    pub fn has_several_seeds(&self) -> bool {
        self.reports
            .iter()
            .any(|a| self.reports.iter().any(|b| a.method == b.method && a.seed != b.seed))
    }

    /// The largest number of tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.groups.iter().map(Group::tasks).max().unwrap_or(0)
    }

    /// The incremental run that training times of `report` are compared with. It has the same tasks
    /// and the same [work](ConfigFields::work). If there are several, it is the one with the most
    /// similar configuration, preferably with the same seed.
    pub(crate) fn reference(&self, report: &RunReport) -> Option<&'a RunReport> {
        let own = self.fields.key(report);
        let likeness = |other: &&RunReport| {
            (
                self.fields.key(other).iter().filter(|field| own.contains(field)).count(),
                other.seed == report.seed,
            )
        };
        // Times of different amounts of work cannot be compared.
        let comparable = |other: &&RunReport| {
            let alike = self
                .fields
                .work
                .iter()
                .all(|field| report.config.get(field) == other.config.get(field));
            other.method == REFERENCE && other.tasks == report.tasks && alike
        };
        // `max_by_key` returns the last of equals, which is the first of the reversed iterator.
        self.groups
            .iter()
            .flat_map(|group| group.reports.iter().copied())
            .rev()
            .filter(comparable)
            .max_by_key(likeness)
    }

    /// The mean training time of the incremental runs that a group is compared with, in seconds.
    pub(crate) fn reference_time(&self, group: &Group<'_>) -> Option<f64> {
        let run = group.reports.iter().find_map(|report| self.reference(report))?;
        let group = self
            .groups
            .iter()
            .find(|group| group.reports.iter().any(|&report| std::ptr::eq(report, run)))?;
        group.train_s().map(|time| time.mean)
    }
}

/// The values that are equal within a group, as (dotted name, value) pairs in a fixed order.
type Key = Vec<(String, Value)>;

impl ConfigFields<'_> {
    fn key(&self, report: &RunReport) -> Key {
        let mut key = vec![
            ("ranks".to_string(), report.world_size.into()),
            ("device".to_string(), report.device.as_str().into()),
            ("tasks".to_string(), report.tasks.len().into()),
        ];
        for (name, value) in report.config.as_object().into_iter().flatten() {
            if name != "seed"
                && !self.neutral.contains(&name.as_str())
                && self.changed != Some(name)
            {
                flatten(name, value, &mut key);
            }
        }
        key
    }
}

fn flatten(name: &str, value: &Value, key: &mut Key) {
    match value {
        Value::Object(fields) => {
            fields
                .iter()
                .filter(|(field, _)| *field != "seed")
                .for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, key));
        }
        value => key.push((name.to_string(), value.clone())),
    }
}

/// The label of a group: its method, and the values that differ if other groups have the same
/// method. If the label would be too long, it contains one value that no other group has and `…`,
/// or a number.
fn label(index: usize, keyed: &[(Key, Group<'_>)]) -> String {
    const LONGEST: usize = 32;

    let (key, group) = &keyed[index];
    let rivals: Vec<_> =
        keyed.iter().filter(|(_, other)| other.method() == group.method()).collect();
    if rivals.len() == 1 {
        return group.label.clone();
    }
    let method = &group.label;
    let fits = |label: &String| label.chars().count() <= LONGEST;
    // The parts of the label, and the number of rivals with the same value.
    let mut differing: Vec<(String, usize)> = Vec::new();
    for field in key {
        let (name, value) = field;
        let same = rivals.iter().filter(|(other, _)| other.contains(field)).count();
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let part = format!(" {}={value}", name.rsplit('.').next().unwrap_or(name));
        // The configuration may repeat a field of the report, such as `ranks`.
        if same < rivals.len() && differing.iter().all(|(other, _)| *other != part) {
            differing.push((part, same));
        }
    }
    let parts: String = differing.iter().map(|(part, _)| part.as_str()).collect();
    let complete = Some(format!("{method}{parts}")).filter(|_| !parts.is_empty());
    let more = if differing.len() > 1 { " …" } else { "" };
    let unique = differing.iter().filter(|(_, same)| *same == 1);
    let mut labels =
        complete.into_iter().chain(unique.map(|(part, _)| format!("{method}{part}{more}")));
    labels.find(fits).unwrap_or_else(|| {
        let position = rivals.iter().position(|(other, _)| other == key);
        format!("{method} #{}", position.map_or(0, |position| position + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{compare, report, three_methods};

    #[test]
    fn runs_that_differ_in_seed_and_neutral_fields_are_one_group() {
        let reports: Vec<_> = (0..3).map(|seed| report("rehearsal", 2, seed)).collect();
        let comparison = compare(&reports);
        let groups = comparison.groups();
        assert_eq!((groups.len(), groups[0].reports.len()), (1, 3));
        assert_eq!(
            (groups[0].label.as_str(), groups[0].title().as_str()),
            ("rehearsal", "rehearsal (3 seeds)")
        );
        let mean = groups[0].mean(|report| Some(report.time.total_s)).unwrap();
        assert!(
            (mean.mean - 19.8).abs() < 1e-9 && (mean.sd.unwrap() - 0.2).abs() < 1e-9,
            "{mean:?}"
        );
        assert_eq!(groups[0].mean(|_| None), None);
    }

    #[test]
    fn groups_are_ordered_and_named_by_their_method() {
        let mut reports = three_methods(2);
        reports.reverse();
        let titles: Vec<_> = compare(&reports).groups.iter().map(Group::title).collect();
        assert_eq!(titles, ["incremental", "rehearsal", "scratch"]);
    }

    #[test]
    fn groups_of_one_method_are_named_by_their_differences() {
        let mut reports: Vec<_> = (0..3).map(|_| report("rehearsal", 2, 0)).collect();
        reports[1].config["rehearsal"]["policy"] = "fifo".into();
        reports[2].world_size = 4;
        let labels: Vec<_> =
            compare(&reports).groups.into_iter().map(|group| group.label).collect();
        assert_eq!(labels[1], "rehearsal ranks=2 policy=fifo");
        assert_eq!(labels[0], "rehearsal #1", "ranks=2 policy=class-balanced is too long");
        assert_eq!(
            labels[2], "rehearsal ranks=4 …",
            "only this group has 4 ranks, but the policy differs, too"
        );
    }

    #[test]
    fn no_reports_are_no_groups() {
        assert!(compare(&[]).groups.is_empty());
    }
}
