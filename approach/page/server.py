"""Serves the page: its look, its address, and who may ask it."""

import gradio as gr
from starlette.middleware import Middleware

from approach.errors import UserError, first_line
from approach.page.hosts import HostCheckMiddleware, list_hosts
from approach.templates import read_template


def make_theme() -> gr.themes.Base:
    """Gradio's own, with fonts that the reader's machine has (nothing is fetched) and enough contrast to read."""
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
    )


def serve(page: gr.Blocks, host: str | None, port: int | None, allowed_hosts: list[str]) -> str:
    """Starts the page and returns its address; raises UserError where the address cannot be had."""
    host_check = Middleware(HostCheckMiddleware, hosts=list_hosts(host, allowed_hosts))
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            max_file_size=1,  # the page takes none; the host check turns them away before
            app_kwargs={"middleware": [host_check]},
            css=read_template("page.css"),
            theme=make_theme(),
        )
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {first_line(error)}") from error
    return url
