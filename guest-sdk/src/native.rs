//! What stands in for the host where there is none: tests, and runs by hand.

use std::collections::BTreeMap;

use crate::{Progress, Task};

pub(crate) fn task() -> Task {
    task_from(|key| std::env::var(key).ok())
}

fn task_from(variable: impl Fn(&str) -> Option<String>) -> Task {
    let text = |key| variable(key).unwrap_or_default();
    Task {
        name: text("SKEP_NAME"),
        task: text("SKEP_TASK"),
        context: text("SKEP_CONTEXT"),
        system_prompt: text("SKEP_SYSTEM_PROMPT"),
        model: text("SKEP_MODEL"),
        labels: BTreeMap::new(),
    }
}

pub(crate) fn report(update: Progress) {
    eprintln!("progress: {update}");
}

pub(crate) fn stop_requested() -> bool {
    false
}

pub(crate) fn exit(code: u8) -> ! {
    std::process::exit(i32::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_is_read_from_the_environment() {
        let task = task_from(|key| Some(format!("value of {key}")));
        assert_eq!(task.name, "value of SKEP_NAME");
        assert_eq!(task.task, "value of SKEP_TASK");
        assert_eq!(task.context, "value of SKEP_CONTEXT");
        assert_eq!(task.system_prompt, "value of SKEP_SYSTEM_PROMPT");
        assert_eq!(task.model, "value of SKEP_MODEL");
        assert!(task.labels.is_empty());
    }

    #[test]
    fn what_is_not_set_is_empty() {
        assert_eq!(task_from(|_| None), Task::default());
    }

    #[test]
    fn nobody_asks_a_native_agent_to_stop() {
        assert!(!crate::stop_requested());
    }
}
