//! Faults of email deliveries.

/// How a delivery fails. By default the fault applies to the next delivery; see [`MailFault::times`],
/// [`MailFault::always`] and [`MailFault::to`]. Faults before `MAIL` apply to new connections only; since clients
/// reuse theirs, [`super::MailSink::hang_up`] makes them open a new one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MailFault {
    /// The connection is closed before the greeting.
    Refuse,
    /// `421` instead of a greeting, and the connection is closed.
    Busy421,
    /// The reply at this step is held until [`super::MailSink::release`], or until the client disconnects.
    Tarpit(SmtpStep),
    /// `450` to the recipient: a temporary failure.
    Greylist450,
    /// `550` to the recipient: a permanent failure.
    Reject550,
    /// The connection is closed at `DATA`; nothing is accepted.
    CutBeforeData,
    /// The message is accepted, but the connection is closed before the reply.
    CutAfterData,
    /// The message is accepted, but the reply is held until [`super::MailSink::release`].
    HoldAfterData,
}

/// The steps of an SMTP session.
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

/// A fault, how often it applies, and to which recipients.
#[derive(Clone, Debug)]
pub struct MailScript {
    pub(super) fault: MailFault,
    pub(super) times: usize,
    to: Option<String>,
}

impl MailFault {
    /// Applies that many times instead of once.
    #[must_use]
    pub fn times(self, times: usize) -> MailScript {
        MailScript::from(self).times(times)
    }

    /// Applies until [`super::MailSink::heal`].
    #[must_use]
    pub fn always(self) -> MailScript {
        MailScript::from(self).always()
    }

    /// Applies only to email to this address or domain.
    ///
    /// # Panics
    /// If the fault occurs before the recipient is known.
    #[must_use]
    pub fn to(self, target: &str) -> MailScript {
        MailScript::from(self).to(target)
    }
}

impl MailScript {
    /// Applies that many times instead of once.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Applies until [`super::MailSink::heal`].
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Applies only to email to this address or domain.
    ///
    /// # Panics
    /// If the fault occurs before the recipient is known.
    #[must_use]
    pub fn to(self, target: &str) -> Self {
        let before_recipient = match self.fault {
            MailFault::Refuse | MailFault::Busy421 => true,
            MailFault::Tarpit(step) => !matches!(step, SmtpStep::Rcpt | SmtpStep::Data),
            _ => false,
        };
        assert!(!before_recipient, "MailSink: {:?} occurs before the recipient is known", self.fault);
        Self { to: Some(target.to_owned()), ..self }
    }

    pub(super) fn applies(&self, fault: MailFault, recipients: &[String]) -> bool {
        let matches = |target: &String| recipients.iter().any(|address| is_addressed(address, target));
        self.fault == fault && self.to.as_ref().is_none_or(matches)
    }
}

impl From<MailFault> for MailScript {
    fn from(fault: MailFault) -> Self {
        Self { fault, times: 1, to: None }
    }
}

/// Whether `address` is the target, or in the domain `target`.
fn is_addressed(address: &str, target: &str) -> bool {
    let domain = address.rsplit('@').next().unwrap_or_default();
    address.eq_ignore_ascii_case(target) || domain.eq_ignore_ascii_case(target)
}
