#!/bin/sh
# A child in a session of its own: no signal to the script's process group would reach it.
setsid sleep 600 &
echo $! >"$GVA_OUTPUT/child.pid"
echo "child $! is away in a session of its own; now I hang"
sleep 600
echo "never printed"
