"""The one exception that means: the user's input is at fault, not the program.

And the codes that programs exit with.
"""

EXIT_DEFECT, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130


class UserError(Exception):
    """Bad input, told in one line.

    The line says what must hold, what was found and where, and the way out. Entry points print the message
    alone and exit with code 2; every other exception is a defect of ours and keeps its traceback.
    """
