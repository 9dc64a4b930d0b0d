//! A policy against one request and one parameter: pure.

use kinit_cel::Value as Cel;

use super::parsed::{Policy, Validation};
use super::run::{Inputs, Run};

/// How long a message that an expression makes may be.
const LONGEST_MESSAGE: usize = 5 * 1024;
/// How long an annotation may be.
const LONGEST_ANNOTATION: usize = 10 * 1024;

/// A rule that does not hold.
pub struct Failure {
    pub message: String,
    pub reason: String,
    /// Its place among the policy's.
    pub index: usize,
}

/// What a policy says.
#[derive(Default)]
pub struct Verdict {
    pub failures: Vec<Failure>,
    pub annotations: Vec<(String, String)>,
}

impl Verdict {
    /// A refusal that comes of no rule.
    pub fn refusal(message: String) -> Self {
        Self { failures: vec![Failure { message, reason: String::new(), index: 0 }], annotations: Vec::new() }
    }
}

/// Evaluates a policy.
pub fn evaluate(policy: &Policy, inputs: &Inputs<'_>) -> Verdict {
    let mut run = Run::new(policy, inputs);
    match run.conditions() {
        Ok(true) => {}
        Ok(false) => return Verdict::default(),
        Err(_) if policy.ignore_failure => return Verdict::default(),
        Err(problem) => return Verdict::refusal(problem),
    }
    run.variables();
    let mut verdict = Verdict::default();
    for (index, validation) in policy.validations.iter().enumerate() {
        if let Some(message) = run.validation(validation) {
            verdict.failures.push(Failure { message, reason: validation.reason.clone(), index });
        }
    }
    for (key, program) in &policy.annotations {
        match run.eval(program) {
            Ok(Cel::Text(text)) => verdict.annotations.push((key.clone(), cut(&text, LONGEST_ANNOTATION))),
            Ok(_) => {}
            Err(_) if policy.ignore_failure => {}
            Err(problem) => {
                let message = format!("failed to evaluate audit annotation {key:?}: {problem}");
                verdict.failures.push(Failure { message, reason: String::new(), index: 0 });
            }
        }
    }
    verdict
}

fn cut(text: &str, longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

impl<'a> Run<'a> {
    /// The message of a rule that does not hold.
    fn validation(&mut self, validation: &'a Validation) -> Option<String> {
        match self.eval(&validation.program) {
            Ok(Cel::Bool(true)) => None,
            Ok(_) => Some(self.message(validation)),
            Err(_) if self.policy.ignore_failure => None,
            Err(problem) => Some(format!("expression '{}' resulted in error: {problem}", validation.expression)),
        }
    }

    /// The rule's own words: made by an expression, as far as it makes a single line.
    fn message(&mut self, validation: &'a Validation) -> String {
        if let Some(program) = &validation.message_program
            && let Ok(Cel::Text(text)) = self.eval(program)
        {
            let text = text.trim();
            if !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n') {
                return text.to_owned();
            }
        }
        match validation.message.as_str() {
            "" => format!("failed expression: {}", validation.expression),
            message => message.to_owned(),
        }
    }
}
