"""One app in several processes: for handlers that need more than the one core that an interpreter can use.

    parent ──── starts, watches, tells to stop ────▶ each child, which serves as any other process does
    (parent)    (roster decides)                     (child)

Nothing that is delivered passes through the parent. What it adds to processes that somebody starts one by one: they
start and stop together, who dies is started again, and how it died is known: for the dead letter of what killed it.
"""
