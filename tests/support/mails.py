"""An SMTP server on this machine that takes a mail after STARTTLS and a login."""

from __future__ import annotations

import base64
import email
import email.policy

from .http_servers import RawServer


class MailServer(RawServer):
    """Keeps the mails that come after a login with this user and password."""

    def __init__(self, context, user, password):
        self.mails = []
        self._context = context
        self._login = ["", user, password]
        super().__init__(lambda server, connection: self._talk(connection))

    def _talk(self, connection):
        stream, offer, is_in = connection.makefile("rwb", 0), b"STARTTLS", False
        stream.write(b"220 here\r\n")
        while line := stream.readline():
            verb, *words = line.decode().split()
            answer = b"250 OK"
            if verb.upper() == "EHLO":
                answer = b"250-here\r\n250 " + offer
            elif verb.upper() == "STARTTLS":
                stream.write(b"220 go on\r\n")
                connection = self._context.wrap_socket(connection.dup(), server_side=True)
                stream, offer = connection.makefile("rwb", 0), b"AUTH PLAIN"
                continue
            elif verb.upper() == "AUTH":
                is_in = base64.b64decode(words[1]).decode().split("\0") == self._login
                answer = b"235 welcome" if is_in else b"535 not welcome"
            elif verb.upper() == "MAIL" and not is_in:
                answer = b"530 log in first"
            elif verb.upper() == "DATA":
                stream.write(b"354 go on\r\n")
                self.mails.append(_mail(stream))
            elif verb.upper() == "QUIT":
                answer = b"221 bye"
            stream.write(answer + b"\r\n")


def _mail(stream):
    lines = iter(stream.readline, b".\r\n")
    return email.message_from_bytes(b"".join(lines), policy=email.policy.default)
