"""The peers, from Debian's packages, and what each makes durable before it acknowledges."""
