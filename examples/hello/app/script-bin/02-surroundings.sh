#!/bin/sh
# What a script finds around it: these variables and no others, but for PATH, HOME, USER, LOGNAME, SHELL and LANG.
set -eu
echo "script       $GVA_SCRIPT"
echo "run          $GVA_RUN_ID, attempt $GVA_ATTEMPT"
echo "application  $GVA_APPLICATION"
echo "data         $GVA_DATA"
echo "output       $GVA_OUTPUT"
echo "scratch      $TMPDIR"
echo "here         $(pwd)"
# Its own name is gone from script-bin while it runs. What is left waits behind it.
echo "waiting      $(echo script-bin/*)"
