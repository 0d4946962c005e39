// The panel's list of the concepts in the prompt. Names, words and notes are written as text, never as HTML. An element
// stays the same one while its concept is in the prompt, so that focus, and what is being typed, stay too.

let alignitIds = 0;

function alignitElement(kind, className = "", text = null) {
    const element = document.createElement(kind);
    element.className = className;
    if (text !== null) element.textContent = text;
    if (kind === "button") element.type = "button";
    return element;
}

function alignitSetText(element, text) {
    if (element.textContent !== text) element.textContent = text; // else it is announced again, or translated again
}

class AlignitConcepts {
    constructor(panel, place) {
        this.panel = panel;
        this.rows = new Map();
        this.status = alignitElement("p", "alignit-status");
        this.status.setAttribute("role", "status");
        this.status.setAttribute("aria-live", "polite");
        this.error = alignitElement("p", "alignit-note");
        this.error.setAttribute("role", "alert");
        this.list = alignitElement("ul", "alignit-concepts");
        this.list.setAttribute("role", "list"); // lost in Safari without bullets
        this.list.setAttribute("aria-label", alignitText("Concepts in the prompt"));
        this.notes = alignitElement("div", "alignit-notes");
        this.place = place;
        place.replaceChildren(this.status, this.error, this.list, this.notes);
        this.summary = "";
        this.error.hidden = this.list.hidden = true;

        this.list.addEventListener("click", event => this.row(event)?.clicked(event.target.closest("button")));
        this.list.addEventListener("change", event => this.row(event)?.commit());
        this.list.addEventListener("focusin", event => this.row(event)?.focused(event.target));
        this.list.addEventListener("focusout", event => this.row(event)?.left(event.relatedTarget));
        this.list.addEventListener("pointerover", event => this.row(event)?.pointed(event));
        this.list.addEventListener("pointerout", event => this.row(event)?.unpointed(event));
        this.list.addEventListener("keydown", event => this.row(event)?.pressed(event));
        // Where the focus is elsewhere, what the pointer has opened closes with Escape as well.
        document.addEventListener("keydown", event => {
            if (event.key === "Escape") this.rows.forEach(row => row.close());
        });
    }

    row(event) {
        const element = event.target.closest(".alignit-concept");
        return [...this.rows.values()].find(row => row.element === element);
    }

    placeOf(name) {
        return this.rows.get(name)?.concept.place;
    }

    say(text) {
        alignitSetText(this.status, text);
    }

    hide() {
        this.place.hidden = true;
        this.summary = "";
    }

    show(answer) {
        this.place.hidden = false;
        const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
        if (answer.error === null || !answer.keep) this.setConcepts(answer.concepts ?? []);
        this.list.classList.toggle("alignit-stale", answer.error !== null);
        this.rows.forEach(row => row.setDisabled(answer.error !== null));
        this.setNotes(answer);
        this.keepFocus(focused);
        this.summarize(answer);
    }

    setConcepts(concepts) {
        const wanted = new Set(concepts.map(concept => concept.name));
        const active = [...this.rows.values()].find(row => row.element.contains(document.activeElement));
        for (const [name, row] of this.rows) {
            if (!wanted.has(name)) {
                row.element.remove();
                this.rows.delete(name);
            }
        }
        for (const concept of concepts) {
            const row = this.rows.get(concept.name) ?? new AlignitRow(this.panel, concept.name);
            this.rows.set(concept.name, row);
            row.update(concept);
        }
        const elements = concepts.map(concept => this.rows.get(concept.name).element);
        if (elements.some((element, index) => element !== this.list.children[index])) {
            // Around the one with the focus, which would lose it.
            const fixed = elements.includes(active?.element) ? active.element : null;
            let before = fixed !== null;
            for (const element of elements) {
                if (element === fixed) before = false;
                else if (before) this.list.insertBefore(element, fixed);
                else this.list.append(element);
            }
        }
        this.list.hidden = !elements.length;
    }

    setNotes(answer) {
        const told = answer.error ?? answer.failed ?? "";
        this.error.hidden = !told;
        alignitSetText(this.error, told);
        const notes = [...(answer.notes ?? [])];
        if (answer.more_concepts) notes.push(alignitText("{count} more concepts are not listed", {count: answer.more_concepts}));
        if (answer.more_notes) notes.push(alignitText("{count} more notes are not shown", {count: answer.more_notes}));
        alignitNotes(this.notes, notes);
    }

    keepFocus(focused) {
        if (!focused || (document.activeElement === focused && !focused.closest("[hidden]"))) return;
        const row = [...this.rows.values()].find(one => one.element.contains(focused) || one.hadFocus);
        (row?.heir ?? this.panel.box).focus();
    }

    // Said aloud by screen readers, and therefore only when it changes.
    summarize(answer) {
        if (answer.error !== null) {
            this.summary = "";
            this.say("");
            return;
        }
        const count = answer.concepts.length + answer.more_concepts;
        let summary = alignitText("No concept in the prompt.");
        if (count) summary = alignitText("Concepts: {count}", {count});
        if (answer.missing) {
            summary = alignitText("Concepts: {count}, not put in: {missing}", {count, missing: answer.missing});
        }
        if (answer.said) {
            const said = Object.entries(answer.said).map(([name, word]) => `${name} = ${word}`);
            this.say(
                said.length
                    ? alignitText("Remembered: {words}", {words: said.join(", ")})
                    : alignitText("Nothing to remember: no concept with a file has a class word.")
            );
        } else if (summary !== this.summary) {
            this.say(summary);
        }
        this.summary = summary;
    }
}

function alignitNotes(place, notes) {
    const same = notes.length === place.children.length && notes.every((note, at) => place.children[at].dataset.note === note);
    if (same) return;
    place.replaceChildren(...notes.map(note => {
        const element = alignitElement("p", "alignit-note", note);
        element.dataset.note = note;
        return element;
    }));
}

class AlignitRow {
    constructor(panel, name) {
        this.panel = panel;
        this.name = name;
        this.pinned = false;
        const id = `alignit-concept-${alignitIds += 1}`;

        this.element = alignitElement("li", "alignit-concept");
        this.title = alignitElement("button", "alignit-name");
        this.title.append(alignitElement("span", "", name));
        this.title.setAttribute("aria-expanded", "false");
        this.title.setAttribute("aria-controls", `${id}-places`);
        this.title.setAttribute("aria-describedby", `${id}-where`);
        this.method = alignitElement("span", "alignit-method");
        this.vectors = alignitElement("span", "alignit-method");
        this.label = alignitElement("label", "alignit-word");
        this.field = alignitElement("input");
        this.field.type = "text";
        this.field.autocomplete = "off";
        this.field.setAttribute("aria-label", alignitText("Class word of {name}", {name}));
        this.label.append(alignitElement("span", "", alignitText("Class word")), this.field);
        this.given = alignitElement("span", "alignit-word");
        this.givenWord = alignitElement("strong");
        this.given.append(alignitElement("span", "", alignitText("Class word")), " ", this.givenWord);
        this.source = alignitElement("span", "alignit-source");
        this.options = alignitElement("span", "alignit-options");
        this.remember = alignitElement("button", "alignit-button alignit-remember", alignitText("Remember"));
        this.suggestions = alignitElement("div", "alignit-suggestions");
        this.invalid = alignitElement("p", "alignit-note");
        this.invalid.id = `${id}-invalid`;
        this.invalid.setAttribute("role", "alert");
        this.invalid.hidden = true;
        this.field.setAttribute("aria-describedby", this.invalid.id);
        this.notes = alignitElement("div", "alignit-notes");
        this.where = alignitElement("p", "alignit-where");
        this.where.id = `${id}-where`;
        this.places = alignitElement("div", "alignit-places");
        this.places.id = `${id}-places`;
        this.places.hidden = true;

        const what = alignitElement("div", "alignit-line");
        what.append(this.title, this.method, this.vectors, this.options);
        const word = alignitElement("div", "alignit-line");
        word.append(this.label, this.given, this.source, this.remember);
        this.element.append(what, word, this.suggestions, this.invalid, this.notes, this.places);
        this.label.hidden = this.given.hidden = this.remember.hidden = true;
    }

    // Where the focus goes when what had it is gone.
    get heir() {
        return this.label.hidden ? this.title : this.field;
    }

    update(concept) {
        const before = this.concept;
        this.concept = concept;
        this.put = null;
        this.hadFocus = this.element.contains(document.activeElement);
        const {name} = this;
        alignitSetText(this.method, this.panel.methods.includes(concept.method) ? alignitText(concept.method) : concept.method);
        let vectors = "";
        if (concept.vectors) {
            vectors = concept.vectors === 1 ? alignitText("1 vector") : alignitText("{count} vectors", {count: concept.vectors});
        }
        alignitSetText(this.vectors, vectors);
        alignitSetText(this.options, concept.options);
        alignitSetText(this.source, alignitText(this.panel.sources[concept.source] ?? "no class word: used as a plain embedding"));

        this.given.hidden = concept.source !== "prompt";
        this.label.hidden = !concept.place;
        alignitSetText(this.givenWord, concept.class_word);
        const typing = document.activeElement === this.field && this.field.value !== before?.class_word;
        const coming = this.panel.wanted.has(name);
        if (!typing && !coming) this.field.value = concept.class_word;
        if (before?.class_word !== concept.class_word && !typing) this.setInvalid("");

        this.remember.hidden = !concept.remember;
        this.remember.setAttribute(
            "aria-label",
            alignitText("Remember {word} as the class word of {name}", {word: concept.class_word, name})
        );
        this.setSuggestions(concept.suggestions);
        alignitNotes(this.notes, concept.notes);
        alignitSetText(this.where, this.inWords());
        if (!this.where.isConnected) this.places.append(this.where);
        if (!this.places.hidden) this.fillPlaces();
    }

    inWords() {
        const {places, more_places: more} = this.concept;
        const parts = places.map(({chunk, rows}) => alignitText("Chunk {chunk}, rows {rows}", {chunk, rows: rows.join(", ")}));
        if (more) parts.push(alignitText("in {count} more chunks", {count: more}));
        return parts.join("; ") || alignitText("Not put in");
    }

    setSuggestions(words) {
        if (this.suggestions.dataset.words === words.join(" ")) return;
        this.suggestions.dataset.words = words.join(" ");
        this.suggestions.replaceChildren();
        if (!words.length) return;
        this.suggestions.append(alignitElement("span", "", alignitText("Nearest nouns")));
        for (const word of words) {
            const button = alignitElement("button", "alignit-button");
            button.append(alignitElement("span", "", alignitText("Use")), " ", alignitElement("b", "", word));
            button.dataset.use = word;
            button.setAttribute(
                "aria-label",
                alignitText("Use {word} as the class word of {name}", {word, name: this.name})
            );
            this.suggestions.append(" ", button);
        }
    }

    setInvalid(text) {
        alignitSetText(this.invalid, text);
        this.invalid.hidden = !text;
        this.field.toggleAttribute("aria-invalid", Boolean(text));
        if (text) this.field.setAttribute("aria-invalid", "true");
    }

    setDisabled(disabled) {
        for (const control of this.element.querySelectorAll(".alignit-word input, .alignit-button")) {
            // What has the focus keeps it: a list that cannot be read is told, and mended elsewhere.
            control.disabled = disabled && control !== document.activeElement;
        }
    }

    // The user's doing

    clicked(button) {
        if (!button) return;
        if (button === this.title) {
            this.pinned = !this.pinned;
            this.places.classList.toggle("alignit-pinned", this.pinned);
            this.open(this.pinned || document.activeElement === this.title);
        } else if (button === this.remember) {
            this.panel.ask("remember", this.name);
        } else if (button.dataset.use) {
            this.field.value = button.dataset.use;
            this.commit();
        }
    }

    commit() {
        // eslint-disable-next-line no-control-regex -- these come with a pasted text, and no class word may have them
        const word = this.field.value.split(/[\s\x00-\x1f\x85]+/).filter(Boolean).join(" ");
        if (word === this.concept.class_word && !this.concept.suggestions.includes(word)) {
            this.setInvalid("");
            return;
        }
        const found = word.match(this.panel.forbidden);
        if (found) {
            const values = {word, character: found[0]};
            this.setInvalid(alignitText("'{word}' contains '{character}', which has a meaning of its own in a prompt", values));
            return;
        }
        this.setInvalid("");
        if (word === this.put) return; // Enter, and then the focus leaves: once is enough
        this.put = word;
        this.panel.put(this.name, word);
    }

    pressed(event) {
        if (event.key === "Escape" && !this.places.hidden) {
            this.close();
            event.stopPropagation(); // the WebUI's Escape interrupts a generation
        } else if (event.key === "Escape" && event.target === this.field && this.field.value !== this.concept.class_word) {
            this.field.value = this.concept.class_word;
            this.setInvalid("");
            event.stopPropagation();
        } else if (event.key === "Enter" && event.target === this.field) {
            this.commit();
        }
    }

    focused(target) {
        if (target === this.title) this.open(true);
    }

    left(to) {
        if (to !== this.title) this.open(this.pinned);
    }

    pointed(event) {
        if (event.pointerType === "touch" || !event.target.closest(".alignit-name, .alignit-places")) return;
        clearTimeout(this.leaving);
        this.open(true);
    }

    unpointed(event) {
        const to = event.relatedTarget?.closest?.(".alignit-name, .alignit-places");
        if (to && this.element.contains(to)) return;
        // The way to what has opened leads over the rest of the row.
        clearTimeout(this.leaving);
        this.leaving = setTimeout(() => this.open(this.pinned || document.activeElement === this.title), 300);
    }

    close() {
        this.pinned = false;
        this.places.classList.remove("alignit-pinned");
        this.open(false);
    }

    // Where the concept stands

    open(open) {
        if (open === !this.places.hidden) {
            this.title.setAttribute("aria-expanded", String(open));
            return;
        }
        if (open) this.fillPlaces();
        this.places.hidden = !open;
        this.title.setAttribute("aria-expanded", String(open));
    }

    fillPlaces() {
        const content = this.concept.places.flatMap(place => {
            const parts = [];
            if (place.text !== null) parts.push(alignitElement("p", "alignit-text", place.text));
            for (const [label, tokens] of [["Base prompt", place.base], ["Dummy prompt", place.dummy]]) {
                const line = alignitElement("p", "alignit-tokens");
                line.append(alignitElement("span", "alignit-label", alignitText(label)));
                tokens.forEach((token, row) => {
                    const injected = place.rows.includes(row);
                    const element = alignitElement(injected ? "mark" : "span", "alignit-token", token);
                    element.dataset.row = row;
                    if (injected) element.append(alignitElement("sub", "", String(row)));
                    line.append(" ", element);
                });
                parts.push(line);
            }
            return parts;
        });
        this.places.replaceChildren(this.where, ...content);
    }
}
