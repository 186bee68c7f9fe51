//! The titles and texts of the pages, in English and Spanish.

use dca_core::users::Locale;

#[derive(Clone, Copy)]
pub(super) enum PageText {
    Verify,
    /// The browser is not the one that signed up.
    VerifyWithPassword,
    /// The link was used or has expired.
    VerifyAgain,
    Verified,
    /// The email is confirmed, and an email with a link to choose a password was sent.
    NeedsPassword,
    Reset,
    /// The link was used or has expired.
    ResetAgain,
    LinkSent,
    PasswordSet,
    SecondFactor,
    SignedIn,
    /// Signed in to a new account, although another one has the same email address.
    EmailInUse,
    Linked,
    Refused,
}

impl PageText {
    /// Title and text.
    pub(super) const fn in_language(self, locale: Locale) -> (&'static str, &'static str) {
        match locale {
            Locale::En => self.english(),
            Locale::Es => self.spanish(),
        }
    }

    const fn english(self) -> (&'static str, &'static str) {
        match self {
            Self::Verify => ("Confirm your email address", "Select Confirm if this email address is yours."),
            Self::VerifyWithPassword => (
                "Confirm your email address",
                "Enter the password that you chose when you signed up. If you do not know it, or someone else signed up \
                 with your email address, continue without it: we will email you a link to choose a new one.",
            ),
            Self::VerifyAgain => (
                "This link no longer works",
                "It was already used, or it has expired. If you have confirmed your email address, you can sign in. If \
                 not, enter it to get a new link.",
            ),
            Self::ResetAgain => (
                "This link no longer works",
                "It was already used, or it has expired. Enter your email address to get a new link.",
            ),
            Self::LinkSent => (
                "Check your inbox",
                "If this email address needs a link, we have sent one. If nothing arrives within a few minutes, look in \
                 the spam folder.",
            ),
            Self::Verified => ("Your email address is confirmed", "You can now sign in."),
            Self::NeedsPassword => {
                ("Your email address is confirmed", "We have emailed you a link to choose a password.")
            }
            Self::Reset => {
                ("Choose a new password", "Use at least 8 characters. You will be signed out on all devices.")
            }
            Self::PasswordSet => ("Your password is set", "You can now sign in with your new password."),
            Self::SecondFactor => {
                ("Two-factor authentication", "Enter the code from your authenticator app, or a recovery code.")
            }
            Self::SignedIn => ("You are signed in", "You can close this page."),
            Self::EmailInUse => (
                "You are signed in",
                "This is a new account, because another account already has your email address. \
                 To use the existing account, sign in to it and link this Discord or Google account there.",
            ),
            Self::Linked => ("Your account is linked", "You can close this page."),
            Self::Refused => ("Something went wrong", "Go back and try again."),
        }
    }

    const fn spanish(self) -> (&'static str, &'static str) {
        match self {
            Self::Verify => ("Confirma tu correo electrónico", "Pulsa Confirmar si este correo electrónico es tuyo."),
            Self::VerifyWithPassword => (
                "Confirma tu correo electrónico",
                "Escribe la contraseña que elegiste al registrarte. Si no la sabes, o si otra persona se registró con tu \
                 correo, continúa sin ella: te enviaremos un enlace para elegir una nueva.",
            ),
            Self::VerifyAgain => (
                "Este enlace ya no sirve",
                "Ya se usó, o ha caducado. Si has confirmado tu correo electrónico, ya puedes iniciar sesión. Si no, \
                 escríbelo para recibir un enlace nuevo.",
            ),
            Self::ResetAgain => (
                "Este enlace ya no sirve",
                "Ya se usó, o ha caducado. Escribe tu correo electrónico para recibir un enlace nuevo.",
            ),
            Self::LinkSent => (
                "Revisa tu correo",
                "Si esta dirección necesita un enlace, lo hemos enviado. Si no llega en unos minutos, mira en la carpeta \
                 de correo no deseado.",
            ),
            Self::Verified => ("Tu correo electrónico está confirmado", "Ya puedes iniciar sesión."),
            Self::NeedsPassword => {
                ("Tu correo electrónico está confirmado", "Te hemos enviado un enlace para elegir una contraseña.")
            }
            Self::Reset => (
                "Elige una contraseña nueva",
                "Usa al menos 8 caracteres. Se cerrará la sesión en todos tus dispositivos.",
            ),
            Self::PasswordSet => ("Tu contraseña está guardada", "Ya puedes iniciar sesión con tu contraseña nueva."),
            Self::SecondFactor => (
                "Autenticación en dos pasos",
                "Escribe el código de tu aplicación de autenticación o un código de recuperación.",
            ),
            Self::SignedIn => ("Has iniciado sesión", "Puedes cerrar esta página."),
            Self::EmailInUse => (
                "Has iniciado sesión",
                "Esta es una cuenta nueva, porque otra cuenta ya tiene tu correo electrónico. Si prefieres usar la otra, \
                 inicia sesión en ella como antes y vincula allí esta forma de iniciar sesión.",
            ),
            Self::Linked => ("Tu cuenta está vinculada", "Puedes cerrar esta página."),
            Self::Refused => ("Algo ha salido mal", "Vuelve atrás e inténtalo de nuevo."),
        }
    }
}
