locals {
  name = "strongroom-${var.environment}"

  labels = merge(var.labels, {
    application = "strongroom"
    environment = var.environment
  })

  services = toset([
    "artifactregistry.googleapis.com",
    "cloudkms.googleapis.com",
    "compute.googleapis.com",
    "container.googleapis.com",
    "containerscanning.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "redis.googleapis.com",
    "secretmanager.googleapis.com",
    "servicenetworking.googleapis.com",
    "sqladmin.googleapis.com",
    "storage.googleapis.com",
  ])

  # As the chart names them: a secret for each component, and for what runs before a release.
  secret_components = toset(["web", "gateway", "worker", "beat", "keybroker", "node", "migrate", "bucket"])
}

data "google_project" "this" {
  project_id = var.project_id
}

resource "google_project_service" "this" {
  for_each = local.services

  project            = var.project_id
  service            = each.key
  disable_on_destroy = false
}

module "network" {
  source = "./modules/network"

  project_id    = var.project_id
  name          = local.name
  region        = var.region
  nodes_cidr    = var.nodes_cidr
  pods_cidr     = var.pods_cidr
  services_cidr = var.services_cidr

  depends_on = [google_project_service.this]
}

module "identity" {
  source = "./modules/identity"

  project_id = var.project_id
  name       = local.name
  namespace  = var.namespace
  release    = var.release

  depends_on = [google_project_service.this]
}

module "secrets" {
  source = "./modules/secrets"

  project_id       = var.project_id
  project_number   = data.google_project.this.number
  name             = local.name
  region           = var.region
  labels           = local.labels
  protection_level = var.key_protection_level
  components       = local.secret_components
  reader_email     = module.identity.secrets_email
  keybroker_email  = module.identity.component_emails["keybroker"]

  depends_on = [google_project_service.this]
}

module "cluster" {
  source = "./modules/cluster"

  project_id           = var.project_id
  name                 = local.name
  region               = var.region
  zones                = var.zones
  labels               = local.labels
  network_id           = module.network.network_id
  subnetwork_id        = module.network.subnetwork_id
  pods_range_name      = module.network.pods_range_name
  services_range_name  = module.network.services_range_name
  control_plane_cidr   = var.control_plane_cidr
  private_endpoint     = var.private_endpoint
  authorized_networks  = var.authorized_networks
  release_channel      = var.release_channel
  secrets_key_id       = module.secrets.key_ids["cluster"]
  machines_email       = module.identity.machines_email
  disk_key_id          = module.secrets.key_ids["disks"]
  binary_authorization = var.binary_authorization
  maintenance_start    = var.maintenance_start
  maintenance_end      = var.maintenance_end
  deletion_protection  = var.deletion_protection
}

module "pools" {
  source = "./modules/pools"

  project_id           = var.project_id
  region               = var.region
  cluster_id           = module.cluster.id
  labels               = local.labels
  node_service_account = module.identity.machines_email
  disk_key_id          = module.secrets.key_ids["disks"]
  general              = var.general_pool
  gpu_pools            = var.gpu_pools
}

module "database" {
  source = "./modules/database"

  project_id                  = var.project_id
  name                        = local.name
  region                      = var.region
  labels                      = local.labels
  network_id                  = module.network.network_id
  private_services_range_name = module.network.private_services_range_name
  kms_key_id                  = module.secrets.key_ids["database"]
  tier                        = var.database.tier
  highly_available            = var.database.highly_available
  disk_size_gb                = var.database.disk_size_gb
  backups_kept                = var.database.backups_kept
  deletion_protection         = var.deletion_protection

  # A private address comes from the peering.
  depends_on = [module.network]
}

module "cache" {
  source = "./modules/cache"

  project_id                  = var.project_id
  name                        = local.name
  region                      = var.region
  labels                      = local.labels
  network_id                  = module.network.network_id
  private_services_range_name = module.network.private_services_range_name
  kms_key_id                  = module.secrets.key_ids["cache"]
  memory_size_gb              = var.cache.memory_size_gb
  highly_available            = var.cache.highly_available
  deletion_protection         = var.deletion_protection

  depends_on = [module.network]
}

module "store" {
  source = "./modules/store"

  project_id    = var.project_id
  bucket_name   = var.bucket_name
  location      = var.region
  labels        = local.labels
  kms_key_id    = module.secrets.key_ids["store"]
  force_destroy = !var.deletion_protection

  # Beat only plans; gateways and nodes get what they need through the site.
  writers = {
    web    = module.identity.component_emails["web"]
    worker = module.identity.component_emails["worker"]
  }
}

module "registry" {
  source = "./modules/registry"

  project_id   = var.project_id
  name         = "strongroom"
  region       = var.region
  labels       = local.labels
  kms_key_id   = module.secrets.key_ids["registry"]
  reader_email = module.identity.machines_email
}
