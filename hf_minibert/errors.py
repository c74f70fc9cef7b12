"""The one exception that means: the input is wrong, the program is not."""


class UserError(ValueError):
    """A mistake in what the user gave: the message names the value, the rule and the remedy.

    Scripts print it as one line and exit with status 2.
    """
