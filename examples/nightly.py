"""A nightly job: loads, then leaves. Leaving waits while workers take, then says what stays and who will deliver it."""

from examples.contracts import PARSE, RawMail
from zerowait import Client, Dead

if __name__ == "__main__":
    with Client("nightly") as zw:
        mails = (RawMail(path, b"...") for path in ("ann/1.eml", "ann/2.eml", "bob/1.eml"))
        print(zw.push_all(PARSE, mails).result(), "mails are safe")
        reminder = zw.push("mail.remind", {"to": "ann"}, delay=1, ttl=3600)
        try:
            reminder.handled.result(timeout=5)
        except Dead as dead:
            print(dead.reason, dead.attempts)
        except TimeoutError:
            print("nobody has handled the reminder yet; it waits on disk")
