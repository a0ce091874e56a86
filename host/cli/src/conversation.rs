use anyhow::{Context, Result};
use halo_models::{ChatTemplate, Message, Package, Role};

/// A conversation with a chat model.
#[derive(Debug)]
pub(crate) struct Conversation {
    template: ChatTemplate,
    messages: Vec<Message>,
}

impl Conversation {
    /// None has been had yet.
    ///
    /// # Errors
    ///
    /// The model has no chat template, or one that cannot be used.
    pub(crate) fn new(package: &Package) -> Result<Self> {
        let template = package.chat_template()?.with_context(|| {
            format!(
                "{} has no chat template, so nothing says how it reads a conversation. Take a model that was trained for \
                 conversations, or continue a text with `halo run`",
                package.name()
            )
        })?;
        Ok(Self {
            template,
            messages: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, role: Role, content: String) {
        self.messages.push(Message { role, content });
    }

    /// The text that the model continues with its answer.
    ///
    /// # Errors
    ///
    /// The template fails, or refuses the conversation.
    pub(crate) fn prompt(&self) -> Result<String> {
        Ok(self.template.render(&self.messages, true)?)
    }

    /// Leaves out the oldest message of the user and the answers to it, and says how many those are. There is nothing to
    /// leave out when the user has only one.
    pub(crate) fn forget_oldest(&mut self) -> Option<usize> {
        let roles = self.messages.iter().map(|message| message.role);
        let mut asked = roles.enumerate().filter(|(_, role)| *role == Role::User);
        let (oldest, next) = (asked.next()?.0, asked.next()?.0);
        self.messages.drain(oldest..next);
        Some(next - oldest)
    }
}
