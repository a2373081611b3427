// The list of jobs: tick all jobs of the page, and count those that are ticked.
"use strict";
(() => {
    const all = document.querySelector("[data-djjp-tick-all]");
    const output = document.querySelector("[data-djjp-ticked]");
    if (!all) return;
    all.closest("[hidden]").removeAttribute("hidden");

    const boxes = () => [...document.querySelectorAll("[data-djjp-tick]")];

    function count() {
        const ticked = boxes().filter((box) => box.checked).length;
        all.checked = ticked > 0 && ticked === boxes().length;
        all.indeterminate = ticked > 0 && !all.checked;
        output.textContent = ticked ? output.dataset.text.replace("NUMBER", ticked) : "";
    }

    document.addEventListener("change", (event) => {
        if (event.target === all) for (const box of boxes()) box.checked = all.checked;
        if (event.target === all || event.target.matches("[data-djjp-tick]")) count();
    });
    addEventListener("pageshow", count);
})();
