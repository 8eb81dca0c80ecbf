"""How much of anything one account or person may have. Each limit has its reason."""

from __future__ import annotations

from datetime import timedelta

# A key per service and environment of a large team; more hints at keys made by a loop.
KEYS_PER_ACCOUNT_MAX = 100
# A team; larger organisations have an identity provider, which is not this.
MEMBERS_PER_ACCOUNT_MAX = 200
# A person who works for many organisations; stops a script from taking all short names.
ACCOUNTS_PER_PERSON_MAX = 20
# A large publisher's catalogue; the list page shows them all by pages.
MODELS_PER_ACCOUNT_MAX = 1_000
# One push an hour for a year.
VERSIONS_PER_MODEL_MAX = 10_000

# Models or networks of one key; who needs more has several uses, and makes several keys.
ALLOWED_ENTRIES_MAX = 100

NAME_LENGTH_MAX = 80
CARD_LENGTH_MAX = 65_536
# States of a card that are kept, some 6 MiB at most: who needs an older one has a repository.
CARD_REVISIONS_MAX = 100
REASON_LENGTH_MAX = 2_000
# Longer queries name no model; they only cost the database time.
SEARCH_LENGTH_MAX = 200
# Words of a query that are looked for; a sentence has fewer.
SEARCH_WORDS_MAX = 24
# What a search puts in order; nobody turns to the twentieth page.
SEARCH_RESULTS_MAX = 240
# Numbers of an embedding: what the column holds, and the model that makes them must give.
EMBEDDING_LENGTH = 384
# Of a listing's text, what is embedded: the model reads some hundred words and no more.
EMBEDDED_CHARACTERS_MAX = 1_200
# Models side by side: what fits on a screen and in a head.
COMPARE_MAX = 4
# Values of one facet that are offered; the rest is found by searching.
FACET_VALUES_MAX = 12
# Values of one facet that may be chosen at once.
FACET_CHOICES_MAX = 20
# Models in a collection, and collections: an editor picks them by hand.
COLLECTION_MODELS_MAX = 60
COLLECTIONS_SHOWN_MAX = 60
# The same of an account: as many as stand on one page, and some topics.
OWN_COLLECTION_MODELS_MAX = 50
COLLECTIONS_PER_ACCOUNT_MAX = 50
# Addresses in the sitemap: its format allows 50,000 in a file.
SITEMAP_ADDRESSES_MAX = 50_000
# Models in llms.txt, which is read whole by a program that pays for each word.
LLMS_MODELS_MAX = 200
BIO_LENGTH_MAX = 500
PAGE_SIZE = 24

# Guessing a password: five tries, then a quarter of an hour of rest.
LOGIN_FAILURES_MAX = 5
# Many people share one address behind a proxy, but they do not all mistype at once.
LOGIN_FAILURES_PER_ADDRESS_MAX = 50
LOGIN_WINDOW_S = 900
# For one person from everywhere: what many addresses may guess together. Far above what the
# person mistypes, so that a stranger who wants to lock somebody out needs many addresses.
LOGIN_FAILURES_PER_PERSON_MAX = 100
# Codes of the second factor: three are right at a time, out of a million.
FACTOR_FAILURES_MAX = 5
FACTOR_WINDOW_S = 900
# Mails with a link that confirms an address, per person.
CONFIRM_MAILS_MAX = 5
CONFIRM_MAIL_WINDOW_S = 3_600
# Codes that one account may try in an hour: a person mistypes, and a machine guesses.
COUPON_TRIES_PER_ACCOUNT_MAX = 20
COUPON_WINDOW_S = 3_600
# New accounts from one address in an hour: a class room, not a name squatter.
SIGN_UPS_PER_ADDRESS_MAX = 20
SIGN_UP_WINDOW_S = 3_600
# Mails that one address may ask for; each goes to somebody's inbox.
PASSWORD_RESETS_PER_ADDRESS_MAX = 10
PASSWORD_RESET_WINDOW_S = 3_600

# Reports that one person may make in a day: who finds more writes to us.
REPORTS_PER_PERSON_MAX = 10
REPORT_WINDOW = timedelta(days=1)
# What fits into one line of a wide screen and three of a phone.
ANNOUNCEMENT_LENGTH_MAX = 280
LINK_LENGTH_MAX = 500
# Announcements at the same time: more are read by nobody.
ANNOUNCEMENTS_SHOWN_MAX = 3
ANNOUNCEMENT_LIFETIME_MAX = timedelta(days=90)
# Put away by one browser; older ones have ended.
DISMISSED_MAX = 50
# How long an admin sees the site as somebody else: one look, not a day's work.
IMPERSONATION_LIFETIME = timedelta(minutes=30)
# Parts of pages that are logged once each in that time.
IMPERSONATION_PARTS_MAX = 200
# Rows of one export of the audit log.
AUDIT_EXPORT_ROWS_MAX = 100_000

# Archives of one account in a day: each reads all that the account ever did.
EXPORTS_PER_DAY_MAX = 3
EXPORT_WINDOW = timedelta(days=1)
# For so long an archive can be fetched; then it is deleted.
EXPORT_LIFETIME = timedelta(days=7)
# Of one file of an archive, before it is packed: 50 million predictions fit.
EXPORT_FILE_BYTES_MAX = 16 * 1024**3
# How often one step is begun before somebody has to look: workers die more rarely.
EXPORT_ATTEMPTS_MAX = 8
# Archives that the page shows.
EXPORTS_SHOWN_MAX = 10
# Between the wish to delete an account and its end: a holiday.
DELETION_GRACE = timedelta(days=14)
# How long the last mail to the owners is waited for, before their addresses are erased.
DELETION_MAIL_WAIT = timedelta(hours=1)

# A token that `strongroom login` made; a forgotten laptop is not a key for ever.
LOGIN_TOKEN_LIFETIME = timedelta(days=90)
# A person's devices; each also is a way in.
PASSKEYS_PER_PERSON_MAX = 20
# What a browser sends as a passkey has 1 to 4 KiB.
CREDENTIAL_LENGTH_MAX = 16_384
# One sheet of paper; who has used some makes new ones.
RECOVERY_CODES = 10
# Between the password and the second factor.
PENDING_LOGIN_LIFETIME_S = 600
# For so long after a proof of who sits there, money and keys need no other.
CONFIRMED_LIFETIME_S = 900
# A link that confirms an address.
CONFIRM_LINK_LIFETIME_S = 3 * 24 * 3_600
# How often "last seen" is written.
SEEN_INTERVAL_S = 300
# A device that was not seen for so long is a new one.
SESSION_MEMORY = timedelta(days=90)
# A page of the inbox, and what one form may mark.
NOTIFICATIONS_PER_PAGE = 30
# The bell says "99+" of more.
BELL_COUNT_MAX = 99
# What stands in an inbox for longer is no news any more.
NOTIFICATION_MEMORY = timedelta(days=90)
# Notices that were mailed, for questions about them.
NOTICE_MEMORY = timedelta(days=30)

# A headline; what is to be said besides stands in the updates.
INCIDENT_TITLE_LENGTH_MAX = 120
INCIDENT_TEXT_LENGTH_MAX = 2_000
# Models that one incident names: more of them are a part of the platform.
INCIDENT_MODELS_MAX = 50
# One every ten minutes for a day and a half; longer trouble has a second incident.
INCIDENT_UPDATES_MAX = 200
# A window of work. What takes longer is done in several.
MAINTENANCE_LENGTH_MAX = timedelta(days=2)
# How far ahead work is told of.
MAINTENANCE_AHEAD_MAX = timedelta(days=90)
# Incidents at a time that pages and feeds show as open; more are read by nobody.
INCIDENTS_OPEN_SHOWN_MAX = 20
# Of the past, on one page and in a feed.
INCIDENTS_PAST_SHOWN_MAX = 20
# What an account's predictions carry is kept for as long as a keyed retry may ask for it, and at
# most for a month: longer belongs into the account's own store. 0 is nothing at all.
RETENTION_DAYS_DEFAULT = 1
RETENTION_DAYS_MAX = 30
