//! What tests do as users, and how they read the bot's replies and messages.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::SimDiscord;
use super::guilds::SimMember;
use super::interactions::{AUTOCOMPLETE, COMMAND, COMPONENT, UserAction};
use super::session::RESPONSE_LIMIT;
use super::state::{Inner, Message, State};
use super::values::{Choice, Dm, Opt, Reply};
use crate::shared::LIMIT;

const DENIED: &str = "The resource owner or authorization server denied the request";

/// Interactions of users with the bot.
impl SimDiscord {
    /// Runs a slash command as a member, once the bot has registered its commands, and waits for the reply.
    ///
    /// # Panics
    /// If the bot has not registered the command, the options do not fit it, or no reply arrives.
    pub async fn run(&self, member: &SimMember, command: &str, options: &[(&str, Opt)]) -> Reply {
        let are_registered = |state: &mut State| (!state.commands.is_empty()).then_some(());
        self.inner.wait("registration of the commands", LIMIT, are_registered).await;
        self.run_unanswered(member, command, options).reply().await
    }

    /// Runs a slash command as a member without waiting.
    ///
    /// # Panics
    /// If the bot has not registered the command or the options do not fit it.
    pub fn run_unanswered(&self, member: &SimMember, command: &str, options: &[(&str, Opt)]) -> InteractionHandle {
        let data = self.inner.lock().command_data(member.guild, command, options, None);
        self.interact(member, COMMAND, data, None)
    }

    /// The autocomplete choices for a partly typed option.
    ///
    /// # Panics
    /// If the option does not autocomplete, or no choices arrive within three seconds.
    pub async fn autocomplete(&self, member: &SimMember, command: &str, option: &str, partial: &str) -> Vec<Choice> {
        let typed = [(option, Opt::Str(partial.to_owned()))];
        let data = self.inner.lock().command_data(member.guild, command, &typed, Some(option));
        let id = self.interact(member, AUTOCOMPLETE, data, None).id;
        let choices = |state: &mut State| state.interactions[&id].choices.clone();
        self.inner.wait("autocomplete choices", RESPONSE_LIMIT, choices).await
    }

    /// Chooses values in a select menu of an earlier reply.
    ///
    /// # Panics
    /// If the reply has no such menu, it does not offer the values, or no reply arrives.
    pub async fn choose(&self, member: &SimMember, reply: &Reply, prefix: &str, values: &[impl ToString]) -> Reply {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        self.use_component(member, reply, prefix, &values).reply().await
    }

    /// Presses a button of an earlier reply.
    ///
    /// # Panics
    /// If the reply has no such button or no reply arrives.
    pub async fn press(&self, member: &SimMember, reply: &Reply, prefix: &str) -> Reply {
        self.press_unanswered(member, reply, prefix).reply().await
    }

    /// Presses a button without waiting.
    ///
    /// # Panics
    /// If the reply has no such button.
    pub fn press_unanswered(&self, member: &SimMember, reply: &Reply, prefix: &str) -> InteractionHandle {
        self.use_component(member, reply, prefix, &[])
    }

    /// Sends a component interaction that no message offered: a button click without values, or a select of the
    /// type that the values suggest (roles, channels or text).
    ///
    /// # Panics
    /// If no reply arrives.
    pub async fn forge_component(&self, member: &SimMember, custom_id: &str, values: &[impl ToString]) -> Reply {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        let (data, message) = self.inner.change(|state| {
            let general = state.guilds[&member.guild].general;
            let message = state.post(general, &json!({ "content": "forged" }), None);
            state.message(message).expect("just posted").read = true;
            (state.forged_data(member.guild, custom_id, &values), message)
        });
        self.interact(member, COMPONENT, data, Some(message)).reply().await
    }

    /// The present state of an earlier reply's message.
    ///
    /// # Panics
    /// If it was deleted.
    pub fn current(&self, reply: &Reply) -> Reply {
        let json = self.inner.lock().message(reply.message()).expect("the message still exists").json.clone();
        Reply::new(json, reply.deferred)
    }

    fn use_component(&self, member: &SimMember, reply: &Reply, prefix: &str, values: &[String]) -> InteractionHandle {
        let message = reply.message();
        let data = self.inner.lock().component_data(member.guild, member.user, message, prefix, values);
        self.interact(member, COMPONENT, data, Some(message))
    }

    fn interact(&self, member: &SimMember, kind: u64, data: Value, source: Option<u64>) -> InteractionHandle {
        let action = UserAction { kind, guild: member.guild, user: member.user, data, source };
        InteractionHandle { inner: Arc::clone(&self.inner), id: self.inner.change(|state| state.interact(action)) }
    }
}

/// Reading the bot's messages.
impl SimDiscord {
    /// Waits for the next unread DM to a user.
    ///
    /// # Panics
    /// If none arrives within ten seconds.
    pub async fn next_dm(&self, member: &SimMember) -> Dm {
        self.next_dm_within(member, LIMIT).await
    }

    /// [`Self::next_dm`] with another limit.
    ///
    /// # Panics
    /// If none arrives within the limit.
    pub async fn next_dm_within(&self, member: &SimMember, limit: Duration) -> Dm {
        let channel = self.inner.lock().dm_channel(member.user);
        self.next(&format!("DM to {}", member.name()), channel, limit).await
    }

    /// All DMs to a user so far; marks them as read.
    pub fn dms(&self, member: &SimMember) -> Vec<Dm> {
        let channel = self.inner.lock().dm_channel(member.user);
        self.messages(channel)
    }

    /// Asserts that there is no unread DM to a user.
    ///
    /// # Panics
    /// If there is one.
    pub fn no_dm(&self, member: &SimMember) {
        let mut state = self.inner.lock();
        let channel = state.dm_channel(member.user);
        let dm = state.messages.iter().find(|message| message.channel == channel && !message.read);
        let dm = dm.map(|message| message.json["content"].clone());
        drop(state);
        assert!(dm.is_none(), "SimDiscord: {} received the DM {dm:?}\n{}", member.name(), self.history());
    }

    /// Waits for the next unread message in a channel.
    ///
    /// # Panics
    /// If none arrives within ten seconds.
    pub async fn next_message(&self, channel: u64) -> Dm {
        self.next(&format!("message in {channel}"), channel, LIMIT).await
    }

    /// All messages in a channel; marks them as read.
    pub fn messages(&self, channel: u64) -> Vec<Dm> {
        let mut state = self.inner.lock();
        let messages = state.messages.iter_mut().filter(|message| message.channel == channel && !message.deleted);
        messages.map(Message::take).collect()
    }

    async fn next(&self, what: &str, channel: u64, limit: Duration) -> Dm {
        let find = |state: &mut State| {
            let is_unread = |m: &&mut Message| m.channel == channel && !m.read && !m.deleted;
            state.messages.iter_mut().find(is_unread).map(Message::take)
        };
        self.inner.wait(what, limit, find).await
    }
}

/// OAuth settings and the consent page.
impl SimDiscord {
    /// The client id of the application.
    pub fn client_id(&self) -> String {
        self.inner.lock().oauth.client_id.clone()
    }

    /// The client secret of the application.
    pub fn client_secret(&self) -> String {
        self.inner.lock().oauth.client_secret.clone()
    }

    /// Registers a redirect URI of the application.
    pub fn register_redirect(&self, uri: &str) {
        self.inner.change(|state| state.oauth.register_redirect(uri));
    }

    /// A member opens the authorize URL and consents. Returns the callback URL.
    ///
    /// # Panics
    /// If Discord would show an error instead.
    pub fn consent(&self, member: &SimMember, authorize_url: &str) -> String {
        let callback = self.inner.change(|state| {
            state.note(format!("{} consents to {authorize_url}", state.users[&member.user].name));
            state.oauth.consent(&member.user.to_string(), authorize_url, &[])
        });
        self.callback(authorize_url, callback)
    }

    /// A user opens the authorize URL and declines. Returns the callback URL.
    ///
    /// # Panics
    /// If Discord would show an error instead.
    pub fn decline(&self, authorize_url: &str) -> String {
        let callback = self.inner.change(|state| {
            state.note(format!("a user declines {authorize_url}"));
            state.oauth.decline(authorize_url, &[("error_description", DENIED)])
        });
        self.callback(authorize_url, callback)
    }

    /// Advances the clock of codes (valid for ten minutes) and access tokens (a week).
    pub fn advance_oauth(&self, by: Duration) {
        self.inner.change(|state| state.oauth.advance(by));
    }

    fn callback(&self, url: &str, callback: Result<String, String>) -> String {
        callback.unwrap_or_else(|error| panic!("SimDiscord: {url} shows an error: {error}\n{}", self.history()))
    }
}

/// An interaction that was sent to the bot.
#[derive(Clone)]
pub struct InteractionHandle {
    inner: Arc<Inner>,
    id: u64,
}

impl InteractionHandle {
    /// Waits for the reply that the user sees: a first response within three seconds and, if it is deferred, its
    /// completion.
    ///
    /// # Panics
    /// If it does not arrive.
    pub async fn reply(&self) -> Reply {
        let (inner, id) = (&self.inner, self.id);
        let first = |state: &mut State| state.interactions[&id].first;
        inner.wait("first response to an interaction", RESPONSE_LIMIT, first).await;
        let answered = |state: &mut State| {
            let interaction = &state.interactions[&id];
            let deferred = interaction.is_deferred();
            if let Some(modal) = &interaction.modal {
                return Some(Reply::new(modal.clone(), deferred));
            }
            let answer = interaction.answer?;
            let message = state.messages.iter_mut().find(|message| message.id == answer)?;
            message.read = true;
            Some(Reply::new(message.json.clone(), deferred))
        };
        inner.wait("reply to an interaction", LIMIT, answered).await
    }

    /// Whether the bot has responded, possibly with a deferral.
    pub fn is_acknowledged(&self) -> bool {
        self.inner.lock().interactions[&self.id].first.is_some()
    }
}
