"""What a benchmark can measure. Apart from the report, because the parser of every command wants to know it."""

PARTS = ("start", "prefill", "decode", "first_token", "sentiment", "message", "bandwidth")
