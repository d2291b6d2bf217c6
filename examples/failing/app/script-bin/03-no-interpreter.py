#!/opt/does-not-exist/bin/python
# Outcome `not_started`: the reason names the interpreter that is missing.
print("nobody ever reads this")
