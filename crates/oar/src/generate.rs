// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manual page and the completions of three shells, printed from the flag table.
//! Holds no name of a flag or verb of its own.
//! Packagers redirect the text to a file: `oar --generate man >oar.1`.

use crate::flags::{Flag, GLOBAL, Kind, Name, Positional, VERBS, Verb};
use crate::parse::members;

pub(crate) fn page(name: &str) -> String {
    match name {
        "complete-bash" => bash(),
        "complete-zsh" => zsh(),
        "complete-fish" => fish(),
        // The parser lets no other name through.
        _ => man(),
    }
}

fn verbs() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter().filter(|verb| !verb.hidden)
}

fn globals() -> impl Iterator<Item = &'static Flag> {
    GLOBAL.iter().copied().flatten().filter(|flag| !flag.hidden)
}

fn takes_id(verb: &Verb) -> bool {
    // The ID of create and run is a new one.
    !matches!(verb.positional, Positional::None | Positional::Command | Positional::Network)
        && !matches!(verb.word, "create" | "run")
}

fn takes_network(verb: &Verb) -> bool {
    verb.positional == Positional::Network && verb.name != Name::NetworkCreate
}

/// Each word that other words follow, once.
fn groups() -> impl Iterator<Item = &'static str> {
    let first = |at: usize, group: &str| verbs().position(|verb| verb.group() == Some(group)) == Some(at);
    verbs().enumerate().filter_map(move |(at, verb)| verb.group().filter(|group| first(at, group)))
}

/// The last word of a verb.
fn own_word(verb: &Verb) -> &'static str {
    verb.word.rsplit(' ').next().unwrap_or(verb.word)
}

/// What may be typed first.
fn first_words() -> Vec<&'static str> {
    verbs().filter(|verb| verb.group().is_none()).map(|verb| verb.word).chain(groups()).collect()
}

fn second_words(group: &str) -> Vec<&'static str> {
    members(group).map(own_word).collect()
}

fn man() -> String {
    let mut text = format!(
        ".TH OAR 1 \"\" \"oar {}\" \"User commands\"\n.SH NAME\noar \\- run OCI containers, without a daemon\n",
        env!("CARGO_PKG_VERSION")
    );
    text.push_str(
        ".SH SYNOPSIS\n.B oar\n[\\fIGLOBAL FLAGS\\fR] \\fICOMMAND\\fR [\\fIFLAGS\\fR] [\\fIARGUMENTS\\fR]\n",
    );
    text.push_str(
        ".SH DESCRIPTION\n\
         Runs containers as the OCI runtime specification describes them, and takes the same command line as\n\
         .BR runc (8).\n\
         Every flag may be written with one dash or two, as\n\
         .B \\-\\-flag value\nor\n.BR \\-\\-flag=value ,\n\
         and more than once: the last one counts.\n",
    );
    text.push_str(".SH GLOBAL FLAGS\nThese go before the command.\n");
    globals().for_each(|flag| man_flag(&mut text, flag));
    text.push_str(".SH COMMANDS\n");
    for verb in verbs() {
        let shape = verb.positional.usage();
        text.push_str(&format!(".SS {}\n", roff(format!("{} [FLAGS] {shape}", verb.word).trim_end())));
        text.push_str(&format!("{}.\n", roff(&capital(verb.doc))));
        if !verb.detail.is_empty() {
            text.push_str(&format!("{}\n", roff(verb.detail)));
        }
        verb.every_flag().filter(|flag| !flag.hidden).for_each(|flag| man_flag(&mut text, flag));
    }
    text.push_str(
        ".SH EXIT STATUS\n\
         0 on success, 1 on failure.\n\
         .B run\n\
         without\n.B \\-\\-detach\n\
         exits with the status of the container's command, or 128 and the number of the signal that ended it.\n\
         A failure is one line on standard error, which begins with\n.BR oar: ,\n\
         and one in the log file, if there is one. In the JSON log, the key\n.B code\n\
         names the kind of failure.\n\
         .SH ENVIRONMENT\n.TP\n.B LISTEN_FDS\n\
         How many descriptors from 3 on are passed to the container (see\n.BR sd_listen_fds (3)).\n\
         .TP\n.B LISTEN_FDNAMES\n\
         Their names, which are passed too.\n\
         .TP\n.B NOTIFY_SOCKET\n\
         Where goes what the container tells by\n.BR sd_notify (3):\n\
         everything while\n.B run\n\
         waits for its end; with\n.B \\-\\-detach\n\
         and for\n.B start\n\
         up to READY=1, which the command waits for.\n\
         .TP\n.B XDG_RUNTIME_DIR\n\
         Where the state is kept without root and without\n.BR \\-\\-root .\n\
         .SH SEE ALSO\n.BR runc (8),\n.BR crun (1)\n",
    );
    text
}

fn man_flag(text: &mut String, flag: &Flag) {
    let mut names = format!("\\fB\\-\\-{}\\fR", roff(flag.name));
    if let Some(letter) = flag.short {
        names = format!("\\fB\\-{letter}\\fR, {names}");
    }
    if !flag.value.is_empty() {
        names.push_str(&format!(" \\fI{}\\fR", roff(flag.value)));
    }
    text.push_str(&format!(".TP\n{names}\n{}.\n", roff(&capital(flag.doc))));
}

fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\"")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn spellings(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|letter| format!("-{letter}"));
    short.into_iter().chain([format!("--{}", flag.name)]).collect()
}

fn bash() -> String {
    // What follows a flag does not depend on the verb, except that `--format`'s choices are list's; so one table.
    let mut values: Vec<(String, String)> = Vec::new();
    let mut add = |flag: &Flag, scope: &str| {
        let reply = match flag.kind {
            Kind::Switch(_) => return,
            Kind::Directory(_) => "compopt -o dirnames; return".to_string(),
            Kind::File(_) => "compopt -o default; return".to_string(),
            Kind::Number(_) | Kind::Text(_) | Kind::Shaped(_) | Kind::Limit | Kind::Ignored => {
                "return".to_string()
            }
            Kind::Choice(choices, _) => {
                format!("COMPREPLY=($(compgen -W '{}' -- \"$word\")); return", choices.join(" "))
            }
        };
        for name in spellings(flag) {
            let entry = (format!("{scope}:{name}"), reply.clone());
            if !values.contains(&entry) {
                values.push(entry);
            }
        }
    };
    globals().for_each(|flag| add(flag, ""));
    for verb in verbs() {
        let scope = verb.word.replace(' ', "\\ ");
        verb.every_flag().filter(|flag| !flag.hidden).for_each(|flag| add(flag, &scope));
    }
    let mut text = String::from(
        "# bash completion of oar, generated by `oar --generate complete-bash`\n\
         _oar() {\n\
         \x20   local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} verb= at skip=\n\
         \x20   COMPREPLY=()\n\
         \x20   for ((at = 1; at < COMP_CWORD; at++)); do\n\
         \x20       if [[ $skip ]]; then skip=; continue; fi\n\
         \x20       case ${COMP_WORDS[at]} in\n",
    );
    let valued: Vec<String> = globals().filter(|flag| !flag.value.is_empty()).flat_map(spellings).collect();
    text.push_str(&format!("            {}) skip=1 ;;\n", valued.join("|")));
    text.push_str("            -*) ;;\n");
    for group in groups() {
        text.push_str(&format!("            {group}) if [[ $verb ]]; then break; fi; verb={group} ;;\n"));
    }
    text.push_str(
        "            *) verb=${verb:+$verb }${COMP_WORDS[at]}; break ;;\n\
         \x20       esac\n\
         \x20   done\n\
         \x20   case $verb:$last in\n",
    );
    for (pattern, reply) in values {
        text.push_str(&format!("        {pattern}) {reply} ;;\n"));
    }
    text.push_str("    esac\n    case $verb:$word in\n");
    let words = |flags: &mut dyn Iterator<Item = &'static Flag>| {
        flags.flat_map(spellings).collect::<Vec<_>>().join(" ")
    };
    text.push_str(&format!(
        "        :-*) COMPREPLY=($(compgen -W '{}' -- \"$word\")) ;;\n",
        words(&mut globals())
    ));
    text.push_str(&format!(
        "        :*|help:*) COMPREPLY=($(compgen -W '{}' -- \"$word\")) ;;\n",
        first_words().join(" ")
    ));
    for group in groups() {
        text.push_str(&format!(
            "        {group}:*) COMPREPLY=($(compgen -W '{}' -- \"$word\")) ;;\n",
            second_words(group).join(" ")
        ));
    }
    for verb in verbs() {
        text.push_str(&format!(
            "        {}:-*) COMPREPLY=($(compgen -W '{}' -- \"$word\")) ;;\n",
            verb.word.replace(' ', "\\ "),
            words(&mut verb.every_flag().filter(|flag| !flag.hidden))
        ));
    }
    let with_id: Vec<String> =
        verbs().filter(|verb| takes_id(verb)).map(|verb| format!("{}:*", verb.word)).collect();
    text.push_str(&format!(
        "        {}) COMPREPLY=($(compgen -W \"$(oar list -q 2>/dev/null)\" -- \"$word\")) ;;\n",
        with_id.join("|")
    ));
    let with_network: Vec<String> = verbs()
        .filter(|verb| takes_network(verb))
        .map(|verb| format!("{}:*", verb.word.replace(' ', "\\ ")))
        .collect();
    text.push_str(&format!(
        "        {}) COMPREPLY=($(compgen -W \"$(oar network ls -q 2>/dev/null)\" -- \"$word\")) ;;\n",
        with_network.join("|")
    ));
    text.push_str("    esac\n}\ncomplete -F _oar oar\n");
    text
}

fn zsh() -> String {
    let mut text = String::from(
        "#compdef oar\n# zsh completion of oar, generated by `oar --generate complete-zsh`\n\
         _oar_id() { local -a ids; ids=(${(f)\"$(oar list -q 2>/dev/null)\"}); _describe container ids }\n\
         _oar_network() { local -a names; names=(${(f)\"$(oar network ls -q 2>/dev/null)\"}); _describe network names }\n\
         _oar() {\n\
         \x20   local curcontext=$curcontext state line\n\
         \x20   local -a verbs\n\
         \x20   verbs=(\n",
    );
    for verb in verbs().filter(|verb| verb.group().is_none()) {
        text.push_str(&format!("        '{}:{}'\n", verb.word, zsh_text(verb.doc)));
    }
    for group in groups() {
        text.push_str(&format!("        '{group}:{}'\n", second_words(group).join(", ")));
    }
    text.push_str("    )\n    _arguments -C \\\n");
    globals().for_each(|flag| zsh_flag(&mut text, flag, "        "));
    text.push_str(
        "        '1: :->verb' '*:: :->rest'\n\
         \x20   case $state in\n\
         \x20       verb) _describe command verbs ;;\n\
         \x20       rest) case $words[1] in\n",
    );
    verbs().filter(|verb| verb.group().is_none()).for_each(|verb| zsh_verb(&mut text, verb));
    for group in groups() {
        text.push_str(&format!("            {group}) local -a seconds; seconds=(\n"));
        for verb in members(group) {
            text.push_str(&format!("                '{}:{}'\n", own_word(verb), zsh_text(verb.doc)));
        }
        text.push_str(
            "            )\n\
             \x20           if (( CURRENT == 2 )); then _describe command seconds; return; fi\n\
             \x20           shift words; (( CURRENT-- ))\n\
             \x20           case $words[1] in\n",
        );
        members(group).for_each(|verb| zsh_verb(&mut text, verb));
        text.push_str("            esac ;;\n");
    }
    text.push_str("        esac ;;\n    esac\n}\n_oar \"$@\"\n");
    text
}

fn zsh_verb(text: &mut String, verb: &Verb) {
    text.push_str(&format!("            {}) _arguments \\\n", own_word(verb)));
    verb.every_flag().filter(|flag| !flag.hidden).for_each(|flag| zsh_flag(text, flag, "                "));
    let rest = match verb.positional {
        Positional::None => "",
        Positional::Command => "'1:command:->verb'",
        Positional::Network if takes_network(verb) => "'1:NAME:_oar_network'",
        Positional::Network => "'1:NAME:'",
        _ if takes_id(verb) && verb.positional == Positional::IdAndSignal => {
            "'1:ID:_oar_id' '2:signal:_signals'"
        }
        _ if takes_id(verb) => "'1:ID:_oar_id'",
        _ => "'1:ID:'",
    };
    text.push_str(&format!("                {rest}\n"));
    if verb.positional == Positional::Command {
        text.push_str("                _describe command verbs\n");
    }
    text.push_str("                ;;\n");
}

fn zsh_flag(text: &mut String, flag: &Flag, indent: &str) {
    let action = match flag.kind {
        Kind::Switch(_) => String::new(),
        Kind::Directory(_) => format!(":{}:_files -/", flag.value),
        Kind::File(_) => format!(":{}:_files", flag.value),
        Kind::Number(_) | Kind::Text(_) | Kind::Shaped(_) | Kind::Limit | Kind::Ignored => {
            format!(":{}:", flag.value)
        }
        Kind::Choice(choices, _) => format!(":{}:({})", flag.value, choices.join(" ")),
    };
    for name in spellings(flag) {
        text.push_str(&format!("{indent}'*{name}[{}]{action}' \\\n", zsh_text(flag.doc)));
    }
}

/// Text inside single quotes and square brackets, where colons separate.
fn zsh_text(text: &str) -> String {
    let text = text.replace('\'', "'\\''").replace(':', "\\:");
    text.replace('[', "\\[").replace(']', "\\]")
}

fn fish() -> String {
    let mut text = String::from(
        "# fish completion of oar, generated by `oar --generate complete-fish`\ncomplete -c oar -f\n",
    );
    let none = "__fish_use_subcommand";
    globals().for_each(|flag| fish_flag(&mut text, flag, none));
    for verb in verbs().filter(|verb| verb.group().is_none()) {
        text.push_str(&format!("complete -c oar -n {none} -a {} -d '{}'\n", verb.word, fish_text(verb.doc)));
    }
    for group in groups() {
        let seconds = second_words(group).join(" ");
        text.push_str(&format!("complete -c oar -n {none} -a {group} -d '{seconds}'\n"));
        let only =
            format!("'__fish_seen_subcommand_from {group}; and not __fish_seen_subcommand_from {seconds}'");
        for verb in members(group) {
            let (word, doc) = (own_word(verb), fish_text(verb.doc));
            text.push_str(&format!("complete -c oar -n {only} -a {word} -d '{doc}'\n"));
        }
    }
    for verb in verbs() {
        let seen = match verb.group() {
            Some(group) => format!(
                "'__fish_seen_subcommand_from {group}; and __fish_seen_subcommand_from {}'",
                own_word(verb)
            ),
            // `create` is seen in `network create` too.
            None => {
                groups().fold(format!("'__fish_seen_subcommand_from {}", verb.word), |seen, group| {
                    format!("{seen}; and not __fish_seen_subcommand_from {group}")
                }) + "'"
            }
        };
        verb.every_flag().filter(|flag| !flag.hidden).for_each(|flag| fish_flag(&mut text, flag, &seen));
        if takes_id(verb) {
            text.push_str(&format!("complete -c oar -n {seen} -a '(oar list -q 2>/dev/null)'\n"));
        }
        if takes_network(verb) {
            text.push_str(&format!("complete -c oar -n {seen} -a '(oar network ls -q 2>/dev/null)'\n"));
        }
        if verb.positional == Positional::Command {
            text.push_str(&format!("complete -c oar -n {seen} -a '{}'\n", first_words().join(" ")));
        }
    }
    text
}

fn fish_flag(text: &mut String, flag: &Flag, condition: &str) {
    let short = flag.short.map_or(String::new(), |letter| format!(" -s {letter}"));
    let value = match flag.kind {
        Kind::Switch(_) => String::new(),
        Kind::Directory(_) => " -x -a '(__fish_complete_directories)'".into(),
        Kind::File(_) => " -r -F".into(),
        Kind::Number(_) | Kind::Text(_) | Kind::Shaped(_) | Kind::Limit | Kind::Ignored => " -x".into(),
        Kind::Choice(choices, _) => format!(" -x -a '{}'", choices.join(" ")),
    };
    let doc = fish_text(flag.doc);
    text.push_str(&format!("complete -c oar -n {condition}{short} -l {}{value} -d '{doc}'\n", flag.name));
}

fn fish_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::flags::PAGES;

    #[test]
    fn every_flag_and_verb_is_in_every_page() {
        for name in PAGES {
            let text = page(name);
            let plain = text.replace("\\-", "-");
            for verb in verbs() {
                for word in verb.word.split(' ') {
                    assert!(plain.contains(word), "{name}: {}", verb.word);
                }
            }
            for flag in globals().chain(verbs().flat_map(Verb::every_flag)).filter(|flag| !flag.hidden) {
                let spelled = if *name == "complete-fish" { "-l " } else { "--" };
                assert!(plain.contains(&format!("{spelled}{}", flag.name)), "{name}: {}", flag.name);
            }
            for hidden in ["criu", "kernel-memory"] {
                assert!(!plain.contains(hidden), "{name} shows a hidden flag");
            }
        }
    }

    #[test]
    fn the_manual_page_has_no_line_that_roff_would_take_for_a_request_by_mistake() {
        for line in man().lines() {
            let request = line.starts_with('.') || line.starts_with('\'');
            let known =
                [".TH ", ".SH ", ".SS ", ".TP", ".B ", ".BR "].iter().any(|known| line.starts_with(known));
            assert_eq!(request, known, "{line}");
        }
    }

    /// The completion in a real bash: what is offered for a command line whose last word is being typed.
    #[test]
    fn bash_offers_what_the_table_says() {
        let offered = |words: &[&str]| -> String {
            let script = format!(
                "{}\ncompopt() {{ echo \"compopt $*\"; }}\noar() {{ echo web db; }}\n\
                 COMP_WORDS=(oar {})\nCOMP_CWORD={}\n_oar\necho \"${{COMPREPLY[*]}}\"",
                bash(),
                words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
                words.len()
            );
            let mut child = Command::new("bash")
                .args(["--norc", "-u"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("bash is needed to test its completion");
            child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{words:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_string()
        };
        assert_eq!(offered(&["st"]), "start state");
        assert_eq!(offered(&["--log-format", ""]), "text json");
        assert_eq!(offered(&["--root", "/run", "--log-f"]), "--log-format");
        assert_eq!(offered(&["--root", "start", "k"]), "kill");
        assert_eq!(offered(&["list", "-f", "j"]), "json");
        assert_eq!(offered(&["delete", "-f", "w"]), "web");
        assert_eq!(offered(&["kill", ""]), "web db");
        assert_eq!(offered(&["create", "--bundle", ""]), "compopt -o dirnames");
        assert_eq!(offered(&["create", "--no-p"]), "--no-pivot");
        assert_eq!(offered(&["help", "fe"]), "features");
        assert_eq!(offered(&["ne"]), "network");
        assert_eq!(offered(&["network", ""]), "create ls inspect rm prune");
        assert_eq!(offered(&["--root", "/run", "network", "create", "--su"]), "--subnet");
        assert_eq!(offered(&["network", "create", "--bund"]), "");
        assert_eq!(offered(&["network", "rm", "w"]), "web");
    }
}
