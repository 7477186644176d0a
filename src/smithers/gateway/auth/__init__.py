"""Auth: who somebody is and what they may do. A door asks the `Doorkeeper`; nothing else here is asked directly.

identity, scopes     what is known of a caller, and what their grants authorise
config               the three ways to authenticate, as an operator configures them; checks has how fields are read
tokens, jwts, keys   bearers: opaque tokens, JWTs and the public keys that signed them
grant_file           tokens that were issued on this machine; folder_events says when there are others
proxies              headers that a proxy in front sets
sent, guards         a request's headers; Host and Origin
sessions, hand_off   browser sessions, and the page that begins one
watch                calls when somebody may no longer stay
doorkeeper           all of it in the order of the contract
"""
