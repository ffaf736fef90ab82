pub fn spec(_: bool) -> String { String::new() }
