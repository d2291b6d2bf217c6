//! Documents of all kinds, most of them hostile.

use std::time::{Duration, Instant};

use super::*;

const HEAD: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
    "<Environment xmlns=\"http://schemas.dmtf.org/ovf/environment/1\"",
    " xmlns:oe=\"http://schemas.dmtf.org/ovf/environment/1\" oe:id=\"vm\">\n"
);

fn document(inside: &str) -> String {
    format!("{HEAD}{inside}</Environment>\n")
}

fn section(inside: &str) -> String {
    document(&format!("<PropertySection>{inside}</PropertySection>"))
}

/// `key=value` of each property.
#[track_caller]
fn properties(text: &str) -> Vec<String> {
    let found = parse(text.as_bytes()).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let shown = |given: Given| format!("{}={}", text(given.name), text(given.value));
    found.given.into_iter().map(shown).collect()
}

#[track_caller]
fn refusal(bytes: impl AsRef<[u8]>) -> String {
    let begun = Instant::now();
    let Err(err) = parse(bytes.as_ref()) else {
        panic!("it was taken");
    };
    // Debug builds are slow; what is not bounded takes minutes.
    assert!(begun.elapsed() < Duration::from_secs(10));
    let err = format!("{err:#}");
    assert!(!err.contains('\n') && err.len() < 300, "{err}");
    err
}

#[test]
fn properties_of_this_machine_are_read_and_those_of_others_are_not() {
    let text = document(
        r#"<PlatformSection><Kind>x</Kind><Property oe:key="no" oe:value="0"/></PlatformSection>
        <PropertySection>
          <Property oe:key="site" oe:value="cluster a"/>
          <Property oe:key="empty" oe:value=""></Property>
          <!-- <Property oe:key="no" oe:value="1"/> -->
          <Other><Property oe:key="no" oe:value="2"/></Other>
        </PropertySection>
        <Entity oe:id="other"><PropertySection><Property oe:key="no" oe:value="3"/></PropertySection></Entity>
        <Property oe:key="no" oe:value="4"/>
        <x:PropertySection xmlns:x="urn:x"><Property oe:key="no" oe:value="5"/></x:PropertySection>
        <PropertySection><Property oe:key="more" oe:value="1"/></PropertySection>"#,
    );
    assert_eq!(properties(&text), ["site=cluster a", "empty=", "more=1"]);
}

#[test]
fn prefixes_are_free_and_attributes_may_lack_theirs() {
    let text = concat!(
        "<o:Environment xmlns:o='http://schemas.dmtf.org/ovf/environment/1' xmlns:f='urn:f'><o:PropertySection>",
        "<o:Property f:key='no' o:key='a' o:value='1'/><o:Property key='b' value='2'/>",
        "<o:Property o:key='c' o:value='3' value='no'/><o:Property value='no' key='no' o:value='4' o:key='d'/>",
        "<f:Property o:key='no' o:value='no'/><Property o:key='no' o:value='no'/>",
        "</o:PropertySection></o:Environment>"
    );
    assert_eq!(properties(text), ["a=1", "b=2", "c=3", "d=4"]);
}

#[test]
fn values_are_what_xml_says_they_are() {
    let text =
        section("<Property oe:key='a' oe:value='&lt;&amp;&gt;&quot;&apos;&#10;&#xe9;$(id)'/>");
    assert_eq!(properties(&text), ["a=<&>\"'\né$(id)"]);
}

#[test]
fn byte_order_mark_is_passed_over() {
    let text = format!("\u{feff}{}", section("<Property oe:key='a' oe:value='1'/>"));
    assert_eq!(properties(&text), ["a=1"]);
}

#[test]
fn property_without_key_or_value_is_told_and_the_others_hold() {
    let text = section(
        "<Property oe:key='a'/><Property oe:value='1'/><Property oe:key='b' oe:value='2'/>",
    );
    let found = parse(text.as_bytes()).unwrap();
    assert_eq!((found.given.len(), found.problems.len()), (1, 2));
}

#[test]
fn doctype_and_entities_are_refused() {
    let laughs = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE l [<!ENTITY a \"ha\">{}]>{}",
        (0..20)
            .map(|n| format!("<!ENTITY a{n} \"&a;&a;&a;&a;&a;&a;&a;&a;\">"))
            .collect::<String>(),
        section("<Property oe:key='a' oe:value='&a19;'/>")
    );
    assert!(refusal(&laughs).contains("DOCTYPE"));
    let file = format!("<!DOCTYPE x SYSTEM \"file:///etc/passwd\">{}", section(""));
    assert!(refusal(file).contains("DOCTYPE"));
    let quoted = refusal(section("<Property oe:key='a' oe:value='&secret;'/>"));
    assert!(!quoted.contains("secret"), "{quoted}");
    refusal(section("&xxe;"));
    refusal(section("<Property oe:key='a' oe:value='&#xd800;'/>"));
}

#[test]
fn depth_and_numbers_are_bounded() {
    let deep = document(&("<a>".repeat(200_000) + &"</a>".repeat(200_000)));
    assert!(refusal(deep).contains("deeper than 32"));
    let many = section(&"<a/>".repeat(200_000));
    assert!(refusal(many).contains("more than 16384 elements"));
    let attributes: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
    assert!(refusal(section(&format!("<Property{attributes}/>"))).contains("attributes"));
    let namespaces: String = (0..40_000).map(|n| format!(" xmlns:a{n}='u'")).collect();
    refusal(section(&format!("<Property{namespaces}/>")));
    let nested: String = (0..30)
        .map(|n| format!("<a xmlns:p{n}='u' xmlns:q{n}='u' xmlns:r{n}='u'>"))
        .collect();
    refusal(section(&(nested + &"</a>".repeat(30))));
    refusal(section("<Property oe:key='a' oe:key='b' oe:value='1'/>"));
    let huge = "v".repeat(1 << 20);
    let text = section(&format!("<Property oe:key='a' oe:value='{huge}'/>"));
    assert_eq!(
        parse(text.as_bytes()).unwrap().given[0].value.len(),
        1 << 20,
        "refused later, by itself"
    );
}

#[test]
fn what_is_no_environment_is_refused() {
    let property = "<PropertySection><Property oe:key='a' oe:value='1'/></PropertySection>";
    let other = document(property).replace("environment/1", "environment/2");
    assert!(refusal(other).starts_with("line 2: it is no Environment of "));
    let envelope = document(property).replace("Environment", "Envelope");
    assert!(refusal(envelope).contains("no Environment"));
    for text in ["", "  \n", "<?xml version='1.0'?>", "<!-- -->"] {
        assert!(refusal(text).contains("empty"), "{text:?}");
    }
    refusal("garbage");
    refusal([0_u8, 1, 2, 255, 254]);
    refusal(vec![0_u8; 4096]);
    refusal(document(property) + "<a/>");
    refusal(document(property) + "trailing");
    refusal("<![CDATA[x]]>".to_owned() + &document(property));
    refusal(document("<a>"));
    refusal(document("</a>"));
    refusal(document("<a></b>"));
    refusal(document("<a b></a>") + "<");
    let whole = section("<Property oe:key='a' oe:value='1'/>");
    for length in 0..whole.trim_end().len() {
        refusal(&whole.as_bytes()[..length]);
    }
}

#[test]
fn only_utf8_is_read() {
    let text = section("<Property oe:key='a' oe:value='1'/>");
    let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
    let little: Vec<u8> = units(&format!("\u{feff}{text}"))
        .iter()
        .flat_map(|unit| unit.to_le_bytes())
        .collect();
    assert!(refusal(little).contains("UTF-16"));
    let big: Vec<u8> = units(&text)
        .iter()
        .flat_map(|unit| unit.to_be_bytes())
        .collect();
    refusal(big);
    assert!(refusal(text.replace("UTF-8", "ISO-8859-1")).contains("encoding"));
    let latin = [text.as_bytes(), b"<!-- \xe9 -->"].concat();
    assert!(refusal(latin).contains("not UTF-8"));
}

#[test]
fn nothing_of_a_broken_document_is_quoted() {
    let property = "<Property oe:key='a' oe:value='secret'/>";
    for broken in [
        section("</Property").replace("</PropertySection>", property),
        section(&format!("<a></a\n{property}></b\n{property}>")),
        section("<a xmlns:xml='secret\n'/>"),
        format!("<?xml secret{}='1'?>", "\n".repeat(500)),
        format!("<?xml version='secret'?>{}", section("")),
        section("&secret"),
        section("<!-- secret"),
        section("<Property oe:key='secret\n oe:value=secret>"),
    ] {
        let told = refusal(&broken);
        assert!(!told.contains("secret"), "{broken}: {told}");
    }
}
