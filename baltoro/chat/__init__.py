"""Messages, the tokenizer, the chat template, the stream parser and the ChatModel protocol that
everyone talks to."""
