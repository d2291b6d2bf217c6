//! What `gva check` and `gva run` read of an OVA that somebody else made: the descriptor as text, a disk's header, the manifest's lines.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../../packaging/gva/src/ova"]
mod ova {
    mod envelope;
    mod hardware;
    mod manifest;
    mod vmdk;

    const OVF: &str = "http://schemas.dmtf.org/ovf/envelope/1";
    const RASD: &str =
        "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";

    pub(crate) fn descriptor(text: &str) {
        let mut findings = Vec::new();
        if let Ok(envelope) = envelope::read(text, &mut findings) {
            hardware::look(&envelope, &mut findings);
        }
    }

    pub(crate) fn manifest(text: &str) {
        for line in text.lines() {
            if let Some(entry) = manifest::parse(line) {
                assert_eq!(
                    manifest::line(entry.name, entry.hash).trim_end_matches('\n'),
                    line
                );
            }
        }
    }

    pub(crate) fn disk(mut bytes: &[u8]) {
        let _ = vmdk::header(&mut bytes);
    }
}

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((b'D', bytes)) => ova::disk(bytes),
        Some((b'M', bytes)) => ova::manifest(&String::from_utf8_lossy(bytes)),
        _ => ova::descriptor(&String::from_utf8_lossy(input)),
    }
});
