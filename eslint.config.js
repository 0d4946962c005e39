import js from "@eslint/js";

const readonly = (...names) => Object.fromEntries(names.map((name) => [name, "readonly"]));

// The WebUI loads each file as a script of its page: what stands at the top of one is there for all.
const browser = readonly("clearTimeout", "document", "navigator", "setInterval", "setTimeout");
const webui = readonly("getTranslation", "gradioApp", "onOptionsChanged", "onUiLoaded", "opts", "updateInput");

export default [
    js.configs.recommended,
    {
        files: ["javascript/*.js"],
        languageOptions: { ecmaVersion: 2022, sourceType: "script", globals: { ...browser, ...webui } },
        rules: {
            eqeqeq: "error",
            "no-implicit-globals": "off",
            "no-unused-vars": ["error", { vars: "local" }],
            "no-var": "error",
            "prefer-const": "error",
        },
    },
    {
        files: ["javascript/alignit.js"],
        languageOptions: { globals: readonly("AlignitConcepts") },
    },
    {
        files: ["javascript/alignit_concepts.js"],
        languageOptions: { globals: readonly("alignitText") },
    },
];
