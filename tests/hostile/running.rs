//! What a running script may do. It is root: it may ruin its own work and the appliance's, but the next script still has its turn.

use crate::frame::{killed, later, neighbour_waits, ran, result, script};
use crate::harness::Guest;

rows! { Guest::on_image();
    script_that_kills_gvad_is_interrupted:
        script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\nkill -9 $PPID\nsleep 1000\n") => [
            killed(libc::SIGKILL), neighbour_waits(), ran(["a"]), later(ran(["a"])), later(result("a", "interrupted", "gvad died"))];
}
