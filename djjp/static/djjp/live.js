// Refresh what changes on a page: fetch its fragment every few seconds, and change only what differs.
//
// The fragment replaces the children of the element with `data-djjp-live`, whose value is the address. Focus,
// selected text, open details, and what was typed or ticked stay, because elements that are alike are kept.
"use strict";
(() => {
    const STORED = "djjp-refresh-seconds";
    const CHOICES = [2, 5, 10, 30, 60, 0];
    const PATIENCE = 10_000;  // milliseconds for an answer
    const live = document.querySelector("[data-djjp-live]");
    let timer = 0;
    let isWaiting = false;
    let answered = Date.now();

    // The choice of the user

    function stored() {
        try {
            const seconds = localStorage.getItem(STORED);
            return seconds !== null && CHOICES.includes(Number(seconds)) ? Number(seconds) : 5;
        } catch {  // storage is forbidden
            return 5;
        }
    }

    function store(seconds) {
        try {
            localStorage.setItem(STORED, String(seconds));
        } catch {
            // It holds for this page only.
        }
    }

    // Change what differs

    const keyOf = (node) => node.nodeType === 1 ? node.id || node.dataset.key || "" : "";

    const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

    // What the user has set is not undone by what the server does not know of.
    const isTheUsers = (element, name) =>
        (name === "open" && element.nodeName === "DETAILS") ||
        (name === "selected" && element.nodeName === "OPTION") ||
        ((name === "value" || name === "checked") && element.matches("input, select, textarea"));

    function isSelected(node) {
        const selection = getSelection();
        return !selection.isCollapsed && selection.containsNode(node, true);
    }

    function changeAttributes(from, to) {
        for (const { name } of [...from.attributes]) {
            if (!to.hasAttribute(name) && !isTheUsers(from, name)) from.removeAttribute(name);
        }
        for (const { name, value } of to.attributes) {
            if (from.getAttribute(name) !== value && !isTheUsers(from, name)) from.setAttribute(name, value);
        }
    }

    function change(from, to) {
        if (from.nodeType !== 1) {
            if (from.nodeValue !== to.nodeValue && !isSelected(from)) from.nodeValue = to.nodeValue;
            return;
        }
        changeAttributes(from, to);
        if (from.nodeName !== "TEXTAREA") changeChildren(from, to);
    }

    function changeChildren(from, to) {
        const kept = new Map();  // by key
        for (const child of from.childNodes) if (keyOf(child)) kept.set(keyOf(child), child);
        const keys = new Set(Array.from(to.childNodes, keyOf));
        let at = from.firstChild;
        const drop = () => {
            const following = at.nextSibling;
            if (!isSelected(at)) at.remove();
            at = following;
        };
        for (const wanted of [...to.childNodes]) {
            while (at && keyOf(at) && !keys.has(keyOf(at))) drop();
            let known = keyOf(wanted) ? kept.get(keyOf(wanted)) : at;
            if (!keyOf(wanted) && wanted.nodeType === 1) {
                while (known && !alike(known, wanted)) known = known.nextSibling;
                while (known && at !== known && !keyOf(at)) drop();
            }
            if (known && alike(known, wanted)) {
                if (known === at) at = at.nextSibling;
                else from.insertBefore(known, at);
                change(known, wanted);
            } else {
                from.insertBefore(document.importNode(wanted, true), at);
            }
        }
        while (at) drop();
    }

    function show(text) {
        const parsed = new DOMParser().parseFromString(`<div>${text}</div>`, "text/html");
        const focused = document.activeElement;
        changeChildren(live, parsed.body.firstChild);
        // An element that is moved loses the focus.
        if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    }

    // Fetch

    function mark(isStale) {
        live.toggleAttribute("data-djjp-stale", isStale);
        const note = document.querySelector("[data-djjp-stale-note]");
        if (!note) return;
        const age = Math.round((Date.now() - answered) / 1000);
        note.querySelector("span").textContent = age < 120 ? `${age} s` : `${Math.round(age / 60)} min`;
        note.hidden = !isStale;
    }

    async function refresh() {
        // What is ticked stays where it is until something was done to it.
        if (document.hidden || isWaiting || document.querySelector("[data-djjp-tick]:checked")) return;
        isWaiting = true;
        const request = new AbortController();
        const patience = setTimeout(() => request.abort(), PATIENCE);
        try {
            const response = await fetch(live.dataset.djjpLive || location.href, {
                headers: { "X-Djjp-Fragment": "1" },
                signal: request.signal,
            });
            // The session has ended, or the right was taken away: the page leads to the login.
            if (response.redirected || response.status === 403) return location.reload();
            if (!response.ok) throw new Error(response.statusText);
            show(await response.text());
            answered = Date.now();
            mark(false);
        } catch {
            mark(true);
        } finally {
            clearTimeout(patience);
            isWaiting = false;
        }
    }

    function start(seconds) {
        clearInterval(timer);
        timer = seconds ? setInterval(refresh, seconds * 1000) : 0;
    }

    // Copy

    function copy(button) {
        const source = document.getElementById(button.dataset.djjpCopy).cloneNode(true);
        for (const label of source.querySelectorAll("[data-djjp-uncopied]")) label.remove();
        const area = document.createElement("textarea");
        area.value = source.textContent;
        area.className = "djjp-unseen";
        document.body.append(area);
        area.select();
        document.execCommand("copy");  // the clipboard's own interface needs https
        area.remove();
        button.focus();
        const label = button.textContent;
        button.textContent = button.dataset.done || label;
        setTimeout(() => { button.textContent = label; }, 2000);
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest("[data-djjp-copy]");
        if (button) copy(button);
    });

    document.documentElement.classList.add("djjp-js");

    if (live) {
        start(stored());
        document.addEventListener("visibilitychange", () => { if (timer) refresh(); });
        const choice = document.querySelector("select[data-djjp-refresh]");
        if (choice) {
            choice.closest("[hidden]")?.removeAttribute("hidden");
            choice.value = String(stored());
            choice.addEventListener("change", () => {
                store(Number(choice.value));
                start(Number(choice.value));
            });
        }
    }
})();
