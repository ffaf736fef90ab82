pub fn apply(_: &coracle_plan::IntelRdt, _: &str, _: &str, _: i32) -> crate::Result<()> { Ok(()) }
pub fn remove(_: &coracle_plan::IntelRdt, _: &str, _: &str) -> crate::Result<()> { Ok(()) }
