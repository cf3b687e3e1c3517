"""The intermediate representation: programs, their text form, their rules, their meaning."""
