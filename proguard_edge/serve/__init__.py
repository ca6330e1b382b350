"""The moderation endpoint: an HTTP server in front of one guard, or several, in other processes.

A request walks through `app` (HTTP) → `moderator` (the story) → `pool` (who waits, who is next) →
`proguard_edge.child` (a process that may die) → `proguard_edge.guard`. Needs the extra `serve`.
"""
