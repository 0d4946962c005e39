// The panel asks the server what it sees in a prompt: a moment after the last change of the prompt or of what the panel
// says, while AlignIT is on, one question at a time. Its list is made by alignit_concepts.js.

const alignitEvery = 200; // milliseconds after which the page is looked at for changes, whoever made them
const alignitPause = 600; // milliseconds without a change, after which the server is asked
const alignitPatience = 60000; // milliseconds after which an answer is not waited for any more
const alignitPanels = {};

// A fixed text in the language of the page, with what stands in braces filled in. The WebUI finds translations by the
// whole text of an element, which a text with a name or a number in it never is.
function alignitText(pattern, values = {}) {
    const text = (typeof getTranslation === "function" && getTranslation(pattern)) || pattern;
    return text.replace(/\{(\w+)\}/g, (all, name) => name in values ? values[name] : all);
}

function alignitPanel(id) {
    alignitPanels[id] ??= new AlignitPanel(id);
    return alignitPanels[id];
}

class AlignitPanel {
    constructor(id) {
        this.id = id;
        this.timer = null;
        this.patience = null;
        this.number = 0; // of the last question
        this.waiting = 0; // the number of the question that has no answer yet; 0: none
        this.shown = 0; // the number of the last answer
        this.actions = []; // buttons that were pressed, in order
        this.due = false; // whether to look again
        this.hurry = false; // whether the next change is one of our own, after which there is no typing to wait for
        this.words = null; // the list of class words for which the last answer was
        this.asked = null;
        this.wanted = new Map(); // class words to write once it is known where, by concept
        this.list = null;
        this.tab = id.split("_")[1];
        this.seen = null; // what the page said when it was last looked at
        setInterval(() => this.poll(), alignitEvery);
    }

    element(name) {
        return gradioApp().getElementById(this.id + name);
    }

    get on() {
        return this.element("enabled")?.visibleCheckbox?.checked;
    }

    get box() {
        return this.element("class_words").querySelector("textarea, input");
    }

    get concepts() {
        if (!this.list) {
            const place = gradioApp().querySelector(`#${this.id}found [data-limit]`);
            this.limit = Number(place.dataset.limit);
            this.forbidden = new RegExp(place.dataset.forbidden);
            this.methods = JSON.parse(place.dataset.methods);
            this.sources = JSON.parse(place.dataset.sources);
            this.list = new AlignitConcepts(this, place);
        }
        return this.list;
    }

    // Looks for changes, typed, pasted or made by the WebUI, which makes no events. Nothing runs at a key.
    poll() {
        const {on} = this;
        if (on === this.seen?.on && !on) return;
        const values = on ? [
            gradioApp().querySelector(`#${this.tab}_prompt textarea`)?.value,
            this.box.value,
            this.element("controls").querySelector("textarea, input").value,
            ...[...gradioApp().querySelectorAll(`#${this.tab}_styles .token`)].map(token => token.textContent),
        ] : [];
        const seen = this.seen;
        this.seen = {on, values};
        const same = seen && seen.on === on && seen.values.length === values.length;
        if (!same || values.some((value, at) => value !== seen.values[at])) this.changed();
    }

    // Something was changed: wait for the last change.
    changed() {
        clearTimeout(this.timer);
        if (!this.on) {
            this.due = false;
            this.list?.hide();
            return;
        }
        this.timer = setTimeout(() => {
            this.due = true;
            this.send();
        }, this.hurry ? 0 : alignitPause);
        this.hurry = false;
    }

    // A button was pressed: "remember", for one concept or all of them, or "suggest".
    ask(action, name = null) {
        this.actions.push({action, name});
        this.send();
    }

    send() {
        if (this.waiting) return; // its answer sends the next
        const action = this.actions.shift() ?? (this.due && this.on ? {action: "look", name: null} : null);
        this.due = false;
        if (!action) return;
        this.waiting = this.number += 1;
        this.action = action;
        clearTimeout(this.patience);
        this.patience = setTimeout(() => this.finish("The server does not answer: the list is as it was."), alignitPatience);
        this.element("look").click();
    }

    // Called by gradio with the values that it would send; returns those that it shall send.
    question([, prompt, , controls, ...more]) {
        this.concepts; // made now, if not before: it knows the limit
        const words = this.asked = this.box.value;
        const texts = {prompt, "class words": words, controls};
        const lengths = {};
        for (const [name, text] of Object.entries(texts)) {
            lengths[name] = text.length;
            if (text.length > this.limit) texts[name] = "";
        }
        return [JSON.stringify({number: this.number, ...this.action, lengths}), ...Object.values(texts), ...more];
    }

    // Called by gradio when a question was answered, or could not be.
    answered(text) {
        const answer = text ? JSON.parse(text) : {number: this.shown};
        if (answer.number !== this.waiting) {
            // An answer that comes too late says nothing new; the one before, again, is what is left of an error.
            if (answer.number === this.shown) this.finish("The server does not answer: the list is as it was.");
            return;
        }
        this.shown = answer.number;
        this.words = answer.error ? null : this.asked;
        this.concepts.show(answer);
        if (answer.class_words !== null) {
            if (this.box.value === this.asked) {
                this.write(answer.class_words);
            } else {
                this.actions.unshift(this.action); // somebody types there: do it again with what is there now
            }
        }
        for (const [name, word] of this.wanted) {
            if (answer.error) break;
            this.wanted.delete(name);
            if (this.box.value !== this.words) {
                this.wanted.set(name, word);
                break;
            }
            this.put(name, word);
        }
        this.finish();
    }

    finish(said = null) {
        clearTimeout(this.patience);
        this.waiting = 0;
        if (said) this.concepts.say(alignitText(said));
        this.send();
    }

    // Give a concept a class word in the list; an empty one takes its entry out. At once where that can be: a click on
    // Generate may come next.
    put(name, word) {
        const place = this.concepts.placeOf(name);
        if (!place) return;
        if (this.box.value !== this.words) {
            this.wanted.set(name, word);
            this.hurry = true;
            this.changed();
            return;
        }
        const list = this.words;
        this.write(
            word
                ? list.slice(0, place.start) + place.before + word + list.slice(place.stop)
                : list.slice(0, place.entry_start) + list.slice(place.entry_stop)
        );
        this.concepts.say(
            word
                ? alignitText("Class word of {name}: {word}", {name, word})
                : alignitText("{name} has no class word in the list now", {name})
        );
    }

    // Called by gradio with the report that "Copy report" has asked for.
    async copy(text) {
        this.report?.remove();
        let copied = true;
        try {
            await navigator.clipboard.writeText(text);
        } catch {
            copied = this.copySelected(text); // no clipboard for a page without https from another machine
        }
        this.concepts.say(alignitText(copied ? "The report is copied." : "Copy the report from the field below."));
    }

    // Copies from a field with the text in it, and leaves it there where the browser does not allow that.
    copySelected(text) {
        const button = this.element("copy_report");
        this.report = document.createElement("textarea");
        this.report.className = "alignit-report";
        this.report.readOnly = true;
        this.report.value = text;
        this.report.setAttribute("aria-label", alignitText("Report"));
        button.parentElement.after(this.report);
        this.report.select();
        if (!document.execCommand("copy")) return false;
        this.report.remove();
        button.focus();
        return true;
    }

    write(words) {
        if (words === this.box.value) return;
        this.hurry = true;
        this.box.value = words;
        updateInput(this.box);
        this.poll();
    }
}

onUiLoaded(function() {
    for (const tab of ["txt2img", "img2img"]) {
        alignitPanel(`script_${tab}_alignit_`);
        const place = gradioApp().querySelector(`#script_${tab}_alignit_found [data-hints]`);
        for (const [name, hint] of Object.entries(JSON.parse(place?.dataset.hints ?? "{}"))) {
            const element = gradioApp().getElementById(`script_${tab}_alignit_${name}`);
            if (element) element.title = alignitText(hint);
        }
        // The WebUI translates these before the page is there.
        for (const field of gradioApp().querySelectorAll(`#script_${tab}_alignit_enabled [placeholder]`)) {
            if (field.placeholder) field.placeholder = alignitText(field.placeholder);
        }
    }
});

// Another checkpoint has other embeddings, and a setting allows suggestions.
onOptionsChanged(function() {
    Object.values(alignitPanels).forEach(panel => panel.changed());
});
