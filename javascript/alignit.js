// The panel's list of concepts follows the prompt and the class words, a moment after the last change of either.

const alignitHints = {
    strength: "0 is the class word alone, 1 is the paper's method, above 1 goes further than that.",
    start: "Fraction of the sampling steps before which the concept is not yet there: its class word is.",
    end: "Fraction of the sampling steps from which on the concept is not there any more: its class word is.",
    suggest: "Add the nearest noun for each concept of the prompt that has no class word.",
    compare: "Make each picture three times, with the same seed: class word alone, concept alone, AlignIT; and a grid.",
    attention_maps: "Add a sheet behind each picture: where the model looked for each word. The picture stays the same.",
    map_words: "Empty: every word of the prompt. Else words with commas, and after a semicolon layers or steps.",
    remember: "Keep the class words of this prompt's concepts with their embeddings, for all later pictures.",
};
const alignitTimers = {};

// Called by gradio on each change, whether typed or pasted. The server is asked only while AlignIT is on.
function alignitLook(accordionId, buttonId) {
    clearTimeout(alignitTimers[buttonId]);
    alignitTimers[buttonId] = setTimeout(function() {
        if (gradioApp().getElementById(accordionId)?.visibleCheckbox?.checked) {
            gradioApp().getElementById(buttonId).click();
        }
    }, 600);
}

onUiLoaded(function() {
    for (const tab of ["txt2img", "img2img"]) {
        for (const [name, hint] of Object.entries(alignitHints)) {
            const element = gradioApp().getElementById(`script_${tab}_alignit_${name}`);
            if (element) element.title = hint;
        }
    }
});
