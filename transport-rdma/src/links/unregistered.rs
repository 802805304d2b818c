//! That batches could not be registered is said once, not for each link.

use crate::error::RdmaError;

/// What is to be said of it.
#[derive(Debug, Default)]
pub(super) struct Unregistered {
    news: Option<RdmaError>,
    is_known: bool,
}

impl Unregistered {
    /// A link has not got its batches registered.
    pub(super) fn refused(&mut self, why: RdmaError) {
        if !self.is_known {
            (self.news, self.is_known) = (Some(why), true);
        }
    }

    pub(super) fn is_news(&self) -> bool {
        self.news.is_some()
    }

    pub(super) fn take(&mut self) -> Option<RdmaError> {
        self.news.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_link_says_it_and_no_other() {
        let mut unregistered = Unregistered::default();
        let why = |text: &str| RdmaError::Setting(text.to_owned());
        unregistered.refused(why("one"));
        unregistered.refused(why("two"));
        assert!(unregistered.is_news());
        assert!(unregistered.take().is_some_and(|why| why.to_string().contains("one")));
        unregistered.refused(why("three"));
        assert!(!unregistered.is_news() && unregistered.take().is_none());
    }
}
