//! Runs that belong together: everything the same but the seed.

use serde_json::Value;

use burn_rehearsal_train::metrics::{MeanSd, mean_sd};
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::report::schema::Method;

/// Runs of one method and one configuration, one for each seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// What to call the group: the method, and what tells it from other groups of the same method if there are any.
    pub label: String,
    /// The runs, at least one, in the order in which they were given.
    pub reports: Vec<&'a RunReport>,
}

impl Group<'_> {
    /// The method of all runs of the group.
    pub fn method(&self) -> Method {
        // A group is made around its first report; the fallback is never used.
        self.reports.first().map_or(Method::Incremental, |report| report.method)
    }

    /// The largest number of tasks; runs of a group have the same number.
    pub fn tasks(&self) -> usize {
        self.reports.iter().map(|report| report.tasks.len()).max().unwrap_or(0)
    }

    /// False if some run was interrupted.
    pub fn complete(&self) -> bool {
        self.reports.iter().all(|report| report.complete)
    }

    /// Mean and spread of a figure over the runs that have it; `None` if no run has it.
    pub fn mean(&self, figure: impl Fn(&RunReport) -> Option<f64>) -> Option<MeanSd> {
        let values: Vec<f64> = self.reports.iter().filter_map(|report| figure(report)).collect();
        mean_sd(&values)
    }

    /// The label, with the number of runs if there are several: of seeds, if each has its own.
    pub fn title(&self) -> String {
        let seeds: std::collections::BTreeSet<u64> = self.reports.iter().map(|report| report.seed).collect();
        match self.reports.len() {
            1 => self.label.clone(),
            runs if runs == seeds.len() => format!("{} ({runs} seeds)", self.label),
            runs => format!("{} ({runs} runs)", self.label),
        }
    }
}

/// Groups runs by method, number of ranks, device, number of tasks and configuration apart from the seed.
///
/// In the configuration, a field `seed` does not count wherever it stands, nor do `out`, `name` and `overridden` at its top: where a run was written says
/// nothing about what it was, and what was changed in its recipe is said by the other fields. Groups are ordered by method (incremental, rehearsal, scratch), then as given.
pub fn groups(reports: &[RunReport]) -> Vec<Group<'_>> {
    let mut keyed: Vec<(Vec<(String, Value)>, Group<'_>)> = Vec::new();
    for report in reports {
        let key = key(report);
        match keyed.iter_mut().find(|(other, group)| *other == key && group.method() == report.method) {
            Some((_, group)) => group.reports.push(report),
            None => keyed.push((key, Group { label: report.method.to_string(), reports: vec![report] })),
        }
    }
    keyed.sort_by_key(|(_, group)| group.method());
    let labels: Vec<String> = (0..keyed.len()).map(|index| label(index, &keyed)).collect();
    keyed.into_iter().zip(labels).map(|((_, group), label)| Group { label, ..group }).collect()
}

/// The incremental run that a run is best compared with: of those with the same data, tasks and network the one whose configuration has most in common with it, of several the one with its seed.
pub(super) fn reference<'a>(report: &RunReport, reports: impl DoubleEndedIterator<Item = &'a RunReport>) -> Option<&'a RunReport> {
    let own = key(report);
    let likeness = |other: &&RunReport| (key(other).iter().filter(|field| own.contains(field)).count(), other.seed == report.seed);
    // Times on other data, or of another network, say nothing about rehearsal.
    let comparable = |other: &&RunReport| {
        let same = |option: &str| report.config.get(option) == other.config.get(option);
        let alike = ["data", "image-size", "model", "model-width"].into_iter().all(same);
        other.method == Method::Incremental && other.tasks == report.tasks && alike
    };
    // `max_by_key` would take the last of equals.
    reports.rev().filter(comparable).max_by_key(likeness)
}

/// The mean training time of the group of incremental runs that a group is best compared with, in seconds.
pub(super) fn reference_time(group: &Group<'_>, groups: &[Group<'_>]) -> Option<f64> {
    let all: Vec<&RunReport> = groups.iter().flat_map(|group| group.reports.iter().copied()).collect();
    let run = group.reports.iter().find_map(|report| reference(report, all.iter().copied()))?;
    let group = groups.iter().find(|group| group.reports.iter().any(|&report| std::ptr::eq(report, run)))?;
    group.mean(|report| Some(report.time.train_s)).map(|time| time.mean)
}

/// What must be equal within a group, as (dotted name, value) pairs in a fixed order.
fn key(report: &RunReport) -> Vec<(String, Value)> {
    let mut key = vec![
        ("ranks".to_string(), report.world_size.into()),
        ("device".to_string(), report.device.as_str().into()),
        ("tasks".to_string(), report.tasks.len().into()),
    ];
    flatten("", &report.config, &mut key);
    key
}

fn flatten(prefix: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    let Value::Object(fields) = value else {
        found.push((prefix.to_string(), value.clone()));
        return;
    };
    for (name, value) in fields {
        let ignored = name == "seed" || (prefix.is_empty() && ["out", "name", "overridden"].contains(&name.as_str()));
        if !ignored {
            flatten(&if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") }, value, found);
        }
    }
}

/// The method, and, if another group has the same method, the values in which they differ; if those are too many to print, one that no other group
/// has and a sign that there are more, or a number.
fn label(index: usize, keyed: &[(Vec<(String, Value)>, Group<'_>)]) -> String {
    const LONGEST: usize = 32;
    const MORE: &str = " …";

    let (key, group) = &keyed[index];
    let rivals: Vec<_> = keyed.iter().filter(|(_, other)| other.method() == group.method()).collect();
    if rivals.len() == 1 {
        return group.label.clone();
    }
    let has = |(other, _): &&&(Vec<_>, Group<'_>), field: &(String, Value)| other.contains(field);
    let mut label = group.label.clone();
    let (mut unique, mut differing) = (None, 0);
    for field in key {
        let same = rivals.iter().filter(|rival| has(rival, field)).count();
        if same == rivals.len() {
            continue;
        }
        differing += 1;
        let (name, value) = field;
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        // The configuration may repeat what stands beside it in the report, under the same name.
        let part = format!(" {}={value}", name.rsplit('.').next().unwrap_or(name));
        if same == 1 && unique.is_none() && group.label.chars().count() + part.chars().count() + MORE.chars().count() <= LONGEST {
            unique = Some(format!("{}{part}", group.label));
        }
        if !label.contains(&part) {
            label.push_str(&part);
        }
    }
    if label != group.label && label.chars().count() <= LONGEST {
        return label;
    }
    // It is not all that differs, and must not look so.
    let unique = unique.map(|label| if differing > 1 { label + MORE } else { label });
    let number = rivals.iter().position(|(other, _)| other == key).map_or(0, |position| position + 1);
    unique.unwrap_or_else(|| format!("{} #{number}", group.label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{report, three_methods};

    #[test]
    fn runs_that_differ_in_seed_and_place_only_are_one_group_with_their_mean() {
        let reports: Vec<_> = (0..3).map(|seed| report(Method::Rehearsal, 2, seed)).collect();
        let groups = groups(&reports);
        assert_eq!((groups.len(), groups[0].reports.len()), (1, 3));
        assert_eq!((groups[0].label.as_str(), groups[0].title().as_str()), ("rehearsal", "rehearsal (3 seeds)"));
        let mean = groups[0].mean(|report| Some(report.time.total_s)).unwrap();
        assert!((mean.mean - 19.8).abs() < 1e-9 && (mean.sd.unwrap() - 0.2).abs() < 1e-9, "{mean:?}");
        assert_eq!(groups[0].mean(|_| None), None);
    }

    #[test]
    fn methods_come_in_a_fixed_order_and_single_runs_are_called_by_their_method() {
        let mut reports = three_methods(2);
        reports.reverse();
        let titles: Vec<_> = groups(&reports).iter().map(Group::title).collect();
        assert_eq!(titles, ["incremental", "rehearsal", "scratch"]);
    }

    #[test]
    fn groups_of_one_method_are_told_apart_by_what_differs() {
        let mut reports: Vec<_> = (0..3).map(|_| report(Method::Rehearsal, 2, 0)).collect();
        reports[1].config["rehearsal"]["policy"] = "fifo".into();
        reports[2].world_size = 4;
        let labels: Vec<_> = groups(&reports).into_iter().map(|group| group.label).collect();
        assert_eq!(labels[1], "rehearsal ranks=2 policy=fifo");
        assert_eq!(labels[0], "rehearsal #1", "ranks=2 policy=class-balanced is too long to print");
        assert_eq!(labels[2], "rehearsal ranks=4 …", "no other has it, but the policy is not that of all either");
    }

    #[test]
    fn no_reports_are_no_groups() {
        assert!(groups(&[]).is_empty());
    }
}
