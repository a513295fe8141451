"""The one exception whose message is written for the user."""


class UserError(Exception):
    """Something that the user can put right; entry points print the message alone and leave with exit code
    2."""
