"use strict";

// The survey's page: every person sees the pairs in an order of their own, and each pair's pictures at sides of their own.
(() => {
    const survey = JSON.parse(document.getElementById("survey").textContent);
    const QUESTIONS = [
        {
            name: "prompt",
            title: "Which picture follows the text better?",
            task: "You see a text and two pictures that were made from it. Choose the one that shows more of what the "
                + "text says, all of it: things, places, actions, colours.",
        },
        {
            name: "concept",
            title: "Which picture shows the one from the reference pictures better?",
            task: "You see reference pictures of one object, animal or person, and two new pictures of it. Choose the one "
                + "in which it looks more like in the reference pictures, wherever it is and whatever it does.",
        },
    ];
    const STORE = `alignit-survey-${survey.survey}`;

    const byId = (id) => document.getElementById(id);
    let state = load() ?? newPerson();
    let steps = layOut(state.person);
    let step = firstOpen();
    let unsaved = false; // whether there are answers that would be lost with the page

    function newPerson() {
        const bytes = crypto.getRandomValues(new Uint8Array(16));
        return {person: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""), answers: {}};
    }

    // Where a browser keeps nothing for files, all works but this.
    function load() {
        try {
            const kept = JSON.parse(localStorage.getItem(STORE));
            return /^[0-9a-f]{32}$/.test(kept.person) && kept.answers instanceof Object ? kept : null;
        } catch {
            return null;
        }
    }

    function keep() {
        try {
            localStorage.setItem(STORE, JSON.stringify(state));
            return true;
        } catch {
            return false;
        }
    }

    // Numbers below n that depend on the person alone (Marsaglia's xorshift): going on later shows the same order.
    function randomOf(person) {
        let x = parseInt(person.slice(0, 8), 16) || 1;
        return (n) => {
            x ^= x << 13;
            x ^= x >>> 17;
            x ^= x << 5;
            return (x >>> 0) % n;
        };
    }

    function layOut(person) {
        const random = randomOf(person);
        return QUESTIONS.flatMap((question) => {
            const pairs = [...survey.pairs];
            for (let i = pairs.length - 1; i > 0; i--) {
                const j = random(i + 1);
                [pairs[i], pairs[j]] = [pairs[j], pairs[i]];
            }
            return pairs.map((pair) => {
                const [left, right] = random(1024) < 512 ? pair.pictures : [...pair.pictures].reverse();
                return {question, pair, left, right, id: `${question.name} ${pair.pair}`};
            });
        });
    }

    function firstOpen() {
        const open = steps.findIndex(({id}) => !Object.hasOwn(state.answers, id));
        return open < 0 ? steps.length : open;
    }

    function show(name) {
        for (const section of ["part", "ask", "end"]) {
            byId(section).hidden = section !== name;
        }
        byId("got").textContent = "";
        if (name !== "ask") {
            byId("told").textContent = "";
        }
    }

    function showPart() {
        const {question} = steps[step];
        const number = QUESTIONS.indexOf(question);
        byId("part-title").textContent = `Part ${number + 1} of ${QUESTIONS.length}: ${question.title}`;
        byId("task").textContent = question.task;
        byId("welcome").hidden = number > 0;
        byId("begin").textContent = step % survey.pairs.length ? "Go on" : "Begin";
        show("part");
        byId("part-title").focus();
    }

    function showStep() {
        const {question, pair, left, right, id} = steps[step];
        const concept = question.name === "concept";
        byId("where").textContent = `Question ${step + 1} of ${steps.length}`;
        byId("progress").value = step;
        byId("question").textContent = question.title;
        byId("text").textContent = pair.text;
        byId("text").hidden = concept;
        byId("references").hidden = !concept;
        const chosen = state.answers[id];
        for (const [side, picture] of [["left", left], ["right", right]]) {
            byId(side).querySelector("img").src = picture.data;
            byId(side).setAttribute("aria-pressed", String(chosen === picture.picture));
        }
        byId("none").setAttribute("aria-pressed", String(chosen === null));
        byId("back").disabled = step === 0;
        byId("told").textContent = `Question ${step + 1} of ${steps.length}. ${concept ? "" : pair.text}`;
        show("ask");
    }

    function showEnd() {
        show("end");
        byId("end-title").focus();
    }

    function answer(chosen) {
        state.answers[steps[step].id] = chosen;
        unsaved = !keep();
        const {question} = steps[step];
        step += 1;
        if (step === steps.length) {
            showEnd();
        } else if (steps[step].question !== question) {
            showPart();
        } else {
            showStep();
        }
    }

    function back() {
        if (step > 0) {
            step -= 1;
            const hidden = byId("ask").hidden;
            showStep();
            if (hidden) {
                byId("question").focus();
            }
        }
    }

    function download() {
        const answers = steps.filter(({id}) => Object.hasOwn(state.answers, id)).map(({question, pair, left, id}) => (
            {pair: pair.pair, question: question.name, left: left.picture, chosen: state.answers[id]}
        ));
        const content = {format: "AlignIT survey answers, 1", survey: survey.survey, person: state.person, answers};
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], {type: "application/json"}));
        link.download = `answers-${survey.survey.slice(0, 8)}-${state.person.slice(0, 8)}.json`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
        unsaved = false;
        byId("got").textContent = `The file ${link.download} has ${answers.length} of ${steps.length} answers.`;
    }

    function somebodyElse() {
        if (confirm("This removes the answers from this page. Have you got the file?")) {
            state = newPerson();
            steps = layOut(state.person);
            step = 0;
            unsaved = false;
            keep();
            showPart();
        }
    }

    const choices = {
        left: () => answer(steps[step].left.picture),
        right: () => answer(steps[step].right.picture),
        none: () => answer(null),
        back,
    };
    const KEYS = {ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", 0: "none", Backspace: "back"};
    for (const [id, act] of Object.entries(choices)) {
        byId(id).addEventListener("click", act);
    }
    document.addEventListener("keydown", (event) => {
        const name = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : undefined;
        const changed = event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
        if (byId("ask").hidden || !byId("keys").checked || name === undefined || changed) {
            return;
        }
        event.preventDefault();
        // A key that is held down would answer what nobody has seen yet.
        if (!event.repeat) {
            choices[name]();
        }
    });
    byId("begin").addEventListener("click", () => {
        showStep();
        byId("question").focus();
    });
    byId("last").addEventListener("click", back);
    byId("so-far").addEventListener("click", download);
    byId("download").addEventListener("click", download);
    byId("other").addEventListener("click", somebodyElse);
    window.addEventListener("beforeunload", (event) => {
        if (unsaved) {
            event.preventDefault();
        }
    });

    const keeps = keep();
    byId("kept").hidden = !keeps;
    byId("not-kept").hidden = keeps;
    if (step === steps.length) {
        showEnd();
    } else {
        showPart();
    }
})();
