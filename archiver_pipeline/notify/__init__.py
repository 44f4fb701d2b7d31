"""Channels that take alerts to people: Slack, Microsoft Teams, email. The only home of their libraries.

URLs and tokens are secrets, and libraries put them into their errors: no text of a library's error leaves this package.
"""
