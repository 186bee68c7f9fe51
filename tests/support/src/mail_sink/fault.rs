//! What goes wrong with mail, and whom it hits.

/// How a delivery goes wrong. By itself it happens to the next one; see [`MailFault::times`],
/// [`MailFault::always`] and [`MailFault::to`]. What comes before `MAIL` hits the next connection only,
/// and clients keep theirs: [`super::MailSink::hang_up`] makes them open a new one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MailFault {
    /// The connection is closed before a word is said.
    Refuse,
    /// `421` instead of a greeting, and the connection is closed.
    Busy421,
    /// No answer at this point until [`super::MailSink::release`], or until the peer leaves.
    Tarpit(SmtpStep),
    /// `450` to the recipient: come back later.
    Greylist450,
    /// `550` to the recipient: never.
    Reject550,
    /// The connection is cut at `DATA`: nothing was accepted.
    CutBeforeData,
    /// The message is accepted, but the connection is cut before that is said.
    CutAfterData,
    /// The message is accepted, but that is not said until [`super::MailSink::release`].
    HoldAfterData,
}

/// Where a conversation may get stuck.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are SMTP's own")]
pub enum SmtpStep {
    Greeting,
    Hello,
    Auth,
    Mail,
    Rcpt,
    Data,
}

/// A fault, how often it happens, and whom it hits.
#[derive(Clone, Debug)]
pub struct MailScript {
    pub(super) fault: MailFault,
    pub(super) times: usize,
    to: Option<String>,
}

impl MailFault {
    /// Happens that often instead of once.
    #[must_use]
    pub fn times(self, times: usize) -> MailScript {
        MailScript::from(self).times(times)
    }

    /// Happens until [`super::MailSink::heal`].
    #[must_use]
    pub fn always(self) -> MailScript {
        MailScript::from(self).always()
    }

    /// Hits only mail to that address, or to that domain.
    ///
    /// # Panics
    /// If the fault comes before the recipient is known.
    #[must_use]
    pub fn to(self, whom: &str) -> MailScript {
        MailScript::from(self).to(whom)
    }
}

impl MailScript {
    /// Happens that often instead of once.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Happens until [`super::MailSink::heal`].
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Hits only mail to that address, or to that domain.
    ///
    /// # Panics
    /// If the fault comes before the recipient is known.
    #[must_use]
    pub fn to(self, whom: &str) -> Self {
        let blind = match self.fault {
            MailFault::Refuse | MailFault::Busy421 => true,
            MailFault::Tarpit(step) => !matches!(step, SmtpStep::Rcpt | SmtpStep::Data),
            _ => false,
        };
        assert!(!blind, "MailSink: {:?} comes before a recipient is named", self.fault);
        Self { to: Some(whom.to_owned()), ..self }
    }

    pub(super) fn hits(&self, fault: MailFault, recipients: &[String]) -> bool {
        let is_meant = |whom: &String| recipients.iter().any(|address| is_at(address, whom));
        self.fault == fault && self.to.as_ref().is_none_or(is_meant)
    }
}

impl From<MailFault> for MailScript {
    fn from(fault: MailFault) -> Self {
        Self { fault, times: 1, to: None }
    }
}

/// Whether `address` is `whom`, or in the domain `whom`.
fn is_at(address: &str, whom: &str) -> bool {
    let domain = address.rsplit('@').next().unwrap_or_default();
    address.eq_ignore_ascii_case(whom) || domain.eq_ignore_ascii_case(whom)
}
